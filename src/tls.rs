//! The TLS provider that HTTP clients take, which are built without one of their own.

/// Makes `ring` the process's provider. HTTP clients want one even for plain HTTP; whoever builds one calls this
/// first. Calling it again changes nothing.
pub fn provide() {
    // An error means that one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
