//! The lab's own certificate authority and the server's certificates.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

/// What went wrong while making certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A name is no DNS name or IP address, or a signature failed.
    #[error("cannot make the API server's certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The certificate made is not accepted.
    #[error("cannot set up TLS for the API server: {0}")]
    Tls(#[from] rustls::Error),
}

/// How far ahead a server's clock is that is ahead.
const AHEAD: Duration = Duration::from_secs(3600);

/// What a server shows its clients.
pub(super) struct Tls {
    /// The CA that a client has to trust, in PEM. Its key was dropped at once.
    pub(super) ca: String,
    /// With a certificate as it should be.
    pub(super) right: TlsAcceptor,
    /// With one that is not valid yet.
    pub(super) ahead: TlsAcceptor,
}

impl Tls {
    /// Makes certificates for these DNS names and IP addresses.
    pub(super) fn create(names: &[String]) -> Result<Self, TlsError> {
        let ca = CertifiedIssuer::self_signed(ca_params()?, KeyPair::generate()?)?;
        let right = server_params(names)?;
        let mut ahead = right.clone();
        ahead.not_before = (SystemTime::now() + AHEAD).into();
        Ok(Self { ca: ca.pem(), right: acceptor(&right, &ca)?, ahead: acceptor(&ahead, &ca)? })
    }
}

fn acceptor(params: &CertificateParams, ca: &CertifiedIssuer<'_, KeyPair>) -> Result<TlsAcceptor, TlsError> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::from(key))?;
    Ok(Arc::new(config).into())
}

fn ca_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "selvedge-lab CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn server_params(names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "selvedge-lab API server");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}
