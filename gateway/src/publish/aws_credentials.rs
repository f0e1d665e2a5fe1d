//! AWS credentials: the standard chain of environment, web identity, ECS, EKS and EC2, or a credentials file that is
//! read for every attempt.

use std::{path::Path, sync::Arc};

use object_store::aws::{AmazonS3Builder, AwsCredential, AwsCredentialProvider};

use super::{
    PublisherError,
    cloud::{client_options, no_retries},
};
use crate::settings::AwsAccount;

/// Largest credentials file.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Access to S3 as the account says; also what finds the credentials for other services.
pub(super) fn builder(account: &AwsAccount) -> Result<AmazonS3Builder, PublisherError> {
    let builder = AmazonS3Builder::from_env()
        .with_region(&account.region)
        .with_retry(no_retries())
        .with_client_options(client_options(account.endpoint.as_ref()));
    match &account.credentials_file {
        Some(path) => Ok(builder.with_credentials(from_file(path)?)),
        None => Ok(builder),
    }
}

fn from_file(path: &Path) -> Result<AwsCredentialProvider, PublisherError> {
    let wrong = |problem: String| PublisherError::Credentials(format!("{}: {problem}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > MAX_FILE_BYTES {
        return Err(wrong(format!("is larger than {MAX_FILE_BYTES} bytes and no credentials file")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let value = |key: &str| default_profile(&text, key);
    let (Some(key_id), Some(secret_key)) = (value("aws_access_key_id"), value("aws_secret_access_key")) else {
        return Err(wrong("needs aws_access_key_id and aws_secret_access_key below [default]".to_owned()));
    };
    let credential = AwsCredential { key_id, secret_key, token: value("aws_session_token") };
    Ok(Arc::new(object_store::StaticCredentialProvider::new(credential)))
}

/// The value of `key` in the section `[default]` of an AWS credentials file.
fn default_profile(text: &str, key: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != "[default]").skip(1);
    lines.by_ref().take_while(|line| !line.starts_with('[')).find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_default_profile_counts() {
        let text = "[other]\naws_access_key_id = A\n[default]\n# c\naws_access_key_id=B\naws_secret_access_key = c=d\n[x]\n\
                    aws_session_token = T\n";
        assert_eq!(default_profile(text, "aws_access_key_id").as_deref(), Some("B"));
        assert_eq!(default_profile(text, "aws_secret_access_key").as_deref(), Some("c=d"));
        assert_eq!(default_profile(text, "aws_session_token"), None);
    }

    #[test]
    fn a_file_without_credentials_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let error = from_file(&path).unwrap_err().to_string();
        assert!(error.starts_with("no usable credentials: ") && error.contains("No such file"), "{error}");
        std::fs::write(&path, "[default]\naws_secret_access_key = very-secret\n").unwrap();
        let error = from_file(&path).unwrap_err().to_string();
        assert!(error.contains("needs aws_access_key_id") && !error.contains("very-secret"), "{error}");
    }
}
