//! Where public listeners listen unless the configuration names an address.

/// Every IPv4 address of the machine.
pub(super) fn default_bind_address() -> String {
    "0.0.0.0".to_owned()
}
