//! The assets of a real Kubernetes, as the program outside gives them to the one inside.

use std::path::PathBuf;

use crate::kubernetes::{Assets, Previous};

/// Given all together, for a real Kubernetes; parsed one by one, because clap asks for what is required of a group even
/// where the group as a whole is not.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Given {
    #[arg(long, hide = true)]
    kubernetes_folder: Option<PathBuf>,
    #[arg(long, hide = true)]
    selvedge_image: Option<PathBuf>,
    #[arg(long, hide = true)]
    deploy_folder: Option<PathBuf>,
    #[arg(long, hide = true)]
    end_to_end: Option<bool>,
    #[arg(long, hide = true, requires = "previous_image")]
    previous_binary: Option<PathBuf>,
    #[arg(long, hide = true)]
    previous_image: Option<PathBuf>,
}

impl Given {
    /// The assets, if they were given.
    pub(super) fn get(&self) -> Option<Assets> {
        let previous = self.previous_binary.clone().zip(self.previous_image.clone());
        Some(Assets {
            kubernetes_folder: self.kubernetes_folder.clone()?,
            selvedge_image: self.selvedge_image.clone()?,
            deploy_folder: self.deploy_folder.clone()?,
            end_to_end: self.end_to_end?,
            previous: previous.map(|(binary, image)| Previous { binary, image }),
        })
    }
}
