//! Certificates and kubeconfigs of a cluster: one authority for clients, API server and kubelets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// The authority of one cluster.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    key: String,
}

/// A certificate and its private key, both in PEM.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn create() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "selvedge-lab Kubernetes CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pair = KeyPair::generate()?;
        let key = pair.serialize_pem();
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, pair)?, key })
    }

    /// The authority itself, for the controller that signs certificates.
    pub(super) fn identity(&self) -> Identity {
        Identity { certificate: self.issuer.pem(), key: self.key.clone() }
    }

    /// A client: Kubernetes takes the common name as user, the organisation as group.
    pub(super) fn client(&self, user: &str, group: &str) -> Result<Identity, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// A server with these DNS names and IP addresses.
    pub(super) fn server(&self, names: Vec<String>) -> Result<Identity, rcgen::Error> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "selvedge-lab");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Identity, rcgen::Error> {
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }

    /// A kubeconfig for the API server at `url`.
    pub(super) fn kubeconfig(&self, url: &str, identity: &Identity) -> String {
        let encoded = |text: &str| STANDARD.encode(text);
        let (authority, certificate, key) =
            (encoded(&self.issuer.pem()), encoded(&identity.certificate), encoded(&identity.key));
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
             clusters: [{{name: lab, cluster: {{server: \"{url}\", certificate-authority-data: {authority}}}}}]\n\
             users: [{{name: lab, user: {{client-certificate-data: {certificate}, client-key-data: {key}}}}}]\n\
             contexts: [{{name: lab, context: {{cluster: lab, user: lab}}}}]\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_is_one_that_clients_take() {
        let authority = Authority::create().unwrap();
        let identity = authority.client("admin", "system:masters").unwrap();
        let text = authority.kubeconfig("https://[fd00::1]:6443", &identity);
        let config: kube::config::Kubeconfig = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(
            config.clusters[0].cluster.as_ref().unwrap().server.as_deref(),
            Some("https://[fd00::1]:6443")
        );
        assert!(config.auth_infos[0].auth_info.as_ref().unwrap().client_key_data.is_some());
    }
}
