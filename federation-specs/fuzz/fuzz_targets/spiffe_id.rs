//! SPIFFE IDs, trust domains and selectors print as they were read.
#![no_main]

use federation_specs::id::{MAX_SPIFFE_ID_BYTES, SpiffeId, TrustDomain};
use federation_specs::selector::Selector;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.to_string(), text);
        assert!(text.len() <= MAX_SPIFFE_ID_BYTES && text.is_ascii());
        assert_eq!(SpiffeId::from_parts(id.trust_domain(), id.path()).as_ref(), Ok(&id));
        assert_eq!(TrustDomain::from_name_or_id(text).as_ref(), Ok(id.trust_domain()));
        assert_eq!(id.is_workload(), !id.path().is_empty() && !id.is_reserved());
        assert!(!id.is_agent() || id.is_reserved());
    }
    if let Ok(trust_domain) = TrustDomain::parse(text) {
        assert_eq!(trust_domain.as_str(), text);
        assert_eq!(SpiffeId::parse(&trust_domain.id_string()), Ok(trust_domain.id()));
        assert!(trust_domain.server_id().is_member_of(&trust_domain));
    }
    if let Ok(selector) = Selector::parse(text) {
        assert_eq!(selector.to_string(), text);
    }
});
