//! Whether the tunnel answers on its control API.

/// Where agent and tunnel stand with each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Session {
    /// No answer yet.
    #[default]
    None,
    /// A tunnel answers; another number is another life of it, which may know nothing.
    Open(u64),
    /// It does not answer; the text says why.
    Broken(String),
}
