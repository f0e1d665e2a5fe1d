//! The LocalAuthority operations: outcomes and texts recorded from SPIRE.

use super::*;

fn refused<T: std::fmt::Debug>(outcome: Result<T, AuthorityError>, kind: AuthorityErrorKind, text: &str) {
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (kind, text));
}

use AuthorityErrorKind::{FailedPrecondition, Internal, InvalidArgument};

#[tokio::test]
async fn an_x509_authority_from_prepared_to_revoked() {
    let ca = TestCa::new(config()).await;
    let manager = ca.start().await.unwrap();
    let current = x509_ids(&manager).0.unwrap();
    refused(manager.activate_x509_authority("").await, InvalidArgument, "no authority ID provided");
    refused(manager.activate_x509_authority("nosuch").await, InvalidArgument, "unexpected authority ID");
    refused(manager.activate_x509_authority(&current).await, InvalidArgument, "unexpected authority ID");
    refused(manager.taint_x509_authority("").await, InvalidArgument, "no authority ID provided");
    refused(manager.taint_x509_authority("nosuch").await, InvalidArgument, "unexpected authority ID");
    refused(manager.taint_x509_authority(&current).await, InvalidArgument, "unable to taint current local authority");
    refused(manager.revoke_x509_authority("").await, InvalidArgument, "invalid authority ID: no authority ID provided");
    refused(
        manager.revoke_x509_authority(&current).await,
        InvalidArgument,
        "invalid authority ID: unable to use current authority",
    );

    let prepared = manager.prepare_x509_authority().await.unwrap();
    assert_eq!(prepared.upstream_authority_subject_key_id, "");
    refused(
        manager.taint_x509_authority(&prepared.authority_id).await,
        InvalidArgument,
        "only Old local authorities can be tainted: unsupported local authority status: PREPARED",
    );
    refused(
        manager.revoke_x509_authority(&prepared.authority_id).await,
        InvalidArgument,
        "invalid authority ID: only Old local authority can be revoked",
    );

    // A second preparation leaves nothing of the first.
    let again = manager.prepare_x509_authority().await.unwrap();
    assert_ne!(again.authority_id, prepared.authority_id);
    assert_eq!(roots(&manager), [current.clone(), again.authority_id.clone()]);
    assert_eq!(manager.bundle().sequence(), Some(3));
    refused(manager.activate_x509_authority(&prepared.authority_id).await, InvalidArgument, "unexpected authority ID");

    let active = manager.activate_x509_authority(&again.authority_id).await.unwrap();
    assert_eq!(active, again);
    refused(
        manager.activate_x509_authority(&current).await,
        Internal,
        "only Prepared authorities can be activated: unsupported local authority status: OLD",
    );
    refused(
        manager.revoke_x509_authority(&current).await,
        Internal,
        "failed to revoke X.509 authority: it is not possible to revoke an untainted root CA",
    );

    // The server's own identity was signed by the old one.
    let own = || manager.server_svid().current().unwrap().chain()[0].to_vec();
    let before = own();
    manager.rotate_server_svid().await.unwrap();
    assert_eq!(own(), before);
    let tainted = manager.taint_x509_authority(&current).await.unwrap();
    assert_eq!(tainted.authority_id, current);
    assert!(manager.bundle().x509_authorities()[0].tainted());
    assert_eq!(manager.bundle().sequence(), Some(4));
    manager.rotate_server_svid().await.unwrap();
    assert_ne!(own(), before);
    refused(
        manager.taint_x509_authority(&current).await,
        Internal,
        "failed to taint X.509 authority: root CA is already tainted",
    );

    manager.revoke_x509_authority(&current).await.unwrap();
    assert_eq!(roots(&manager), [again.authority_id]);
    assert_eq!(manager.bundle().sequence(), Some(5));
    refused(
        manager.revoke_x509_authority(&current).await,
        Internal,
        "failed to revoke X.509 authority: no root CA found with provided subject key ID",
    );
    assert_eq!(x509_ids(&manager).2, Some(current), "still reported as old");
    refused(
        manager.taint_x509_upstream_authority("aa").await,
        FailedPrecondition,
        "upstream authority is not configured",
    );
}

#[tokio::test]
async fn a_jwt_authority_from_prepared_to_revoked() {
    let ca = TestCa::new(config()).await;
    let manager = ca.start().await.unwrap();
    let current = jwt_ids(&manager).0.unwrap();
    refused(
        manager.revoke_jwt_authority("nosuch").await,
        InvalidArgument,
        "invalid authority ID: no JWT authority found with provided authority ID",
    );
    refused(
        manager.revoke_jwt_authority(&current).await,
        InvalidArgument,
        "invalid authority ID: unable to use current authority",
    );
    refused(manager.taint_jwt_authority(&current).await, InvalidArgument, "unable to taint current local authority");
    let first = manager.prepare_jwt_authority().await.unwrap();
    let prepared = manager.prepare_jwt_authority().await.unwrap();
    assert_eq!(key_ids(&manager), [current.clone(), prepared.authority_id.clone()]);
    refused(
        manager.revoke_jwt_authority(&first.authority_id).await,
        InvalidArgument,
        "invalid authority ID: no JWT authority found with provided authority ID",
    );
    refused(
        manager.revoke_jwt_authority(&prepared.authority_id).await,
        InvalidArgument,
        "invalid authority ID: unable to use a prepared key",
    );
    manager.activate_jwt_authority(&prepared.authority_id).await.unwrap();
    refused(
        manager.activate_jwt_authority(&current).await,
        Internal,
        "only Prepared authorities can be activated: unsupported local authority status: OLD",
    );
    refused(
        manager.revoke_jwt_authority(&current).await,
        Internal,
        "failed to revoke JWT authority: it is not possible to revoke an untainted key",
    );
    manager.taint_jwt_authority(&current).await.unwrap();
    refused(
        manager.taint_jwt_authority(&current).await,
        Internal,
        "failed to taint JWT authority: key is already tainted",
    );
    manager.revoke_jwt_authority(&current).await.unwrap();
    assert_eq!(key_ids(&manager), [prepared.authority_id]);
    refused(
        manager.revoke_jwt_authority(&current).await,
        Internal,
        "failed to revoke JWT authority: no JWT Key found with provided key ID",
    );
}

#[tokio::test]
async fn a_key_of_a_downstream_server_can_be_revoked_when_tainted() {
    let ca = TestCa::new(config()).await;
    let manager = ca.start().await.unwrap();
    manager.publish_jwt_authority(crate::store::testing::jwt_key("extra", Some(99))).await.unwrap();
    refused(
        manager.revoke_jwt_authority("extra").await,
        Internal,
        "failed to revoke JWT authority: it is not possible to revoke an untainted key",
    );
    manager.store.taint_jwt_authority("extra").await.unwrap();
    assert_eq!(manager.revoke_jwt_authority("extra").await.unwrap().expires_at, 99);
}
