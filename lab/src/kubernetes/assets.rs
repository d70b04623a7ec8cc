//! What a real Kubernetes is made of: its binaries and images, Selvedge's own image, and the manifests. Built once and
//! kept in a cache, by scripts of the project, outside of all namespaces.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the assets are. All paths are absolute.
#[derive(Debug, Clone)]
pub struct Assets {
    /// Folder with `bin` and `images`.
    pub kubernetes_folder: PathBuf,
    /// Selvedge's image, an OCI layout as a tar file.
    pub selvedge_image: PathBuf,
    /// The project's `deploy` folder.
    pub deploy_folder: PathBuf,
    /// Whether nodes get the images of upstream's end-to-end tests too.
    pub end_to_end: bool,
    /// What the cluster begins with, if that is to be upgraded.
    pub previous: Option<Previous>,
}

/// Another version of Selvedge.
#[derive(Debug, Clone)]
pub struct Previous {
    /// The program, static.
    pub binary: PathBuf,
    /// The same as an image.
    pub image: PathBuf,
}

/// Name of another version's image.
pub(super) const PREVIOUS_IMAGE: &str = "localhost/selvedge:previous";

/// Why something is missing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No project around this program.
    #[error("no {BUILD} above {}: run selvedge-lab from the project's folder", .0.display())]
    NoProject(PathBuf),
    /// A script could not be started.
    #[error("run {}: {source}", script.display())]
    Start {
        /// Which.
        script: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image's script has not said where the image is.
    #[error("{} named no image", .0.display())]
    NoImage(PathBuf),
    /// A script failed, and has said why.
    #[error("{} failed ({status}), see above", script.display())]
    Failed {
        /// Which.
        script: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
    },
}

const BUILD: &str = "tests/kubernetes/build.sh";
const IMAGE: &str = "deploy/image/build.sh";
/// Where the image goes, below the project's folder.
const IMAGE_FOLDER: &str = "target/image";
const PREVIOUS_IMAGE_FOLDER: &str = "target/image/previous";
/// Argument of the script that builds what a cluster needs, and the one for upstream's end-to-end tests too.
const END_TO_END: &str = "e2e";

impl Assets {
    /// Builds what is not there yet, with `end_to_end` upstream's end-to-end tests as well, and with `previous` the image
    /// of that program; the scripts tell on standard error how far they are.
    ///
    /// # Errors
    /// When there is no project around this program or folder, or a script fails.
    pub fn prepare(end_to_end: bool, previous: Option<&Path>) -> Result<Self, Error> {
        let project = project()?;
        let build = project.join(BUILD);
        let mut folder = run(&build, &[], &[])?;
        if end_to_end {
            folder = run(&build, &[Path::new(END_TO_END)], &[])?;
        }
        let selvedge_image = image(&project, IMAGE_FOLDER, &[])?;
        let previous = previous.map(|binary| {
            let named = [("SELVEDGE_BINARY", binary.as_os_str()), ("IMAGE", PREVIOUS_IMAGE.as_ref())];
            let image = image(&project, PREVIOUS_IMAGE_FOLDER, &named)?;
            Ok::<_, Error>(Previous { binary: binary.to_owned(), image })
        });
        Ok(Self {
            kubernetes_folder: folder.lines().last().unwrap_or_default().into(),
            selvedge_image,
            deploy_folder: project.join("deploy"),
            end_to_end,
            previous: previous.transpose()?,
        })
    }

    /// Builds bridge and host-local of the CNI project where they are not there yet; gives their folder.
    ///
    /// # Errors
    /// As [`Assets::prepare`].
    pub fn plugins() -> Result<PathBuf, Error> {
        let build = project()?.join(BUILD);
        let folder = run(&build, &["cni/bridge", "cni/host-local"].map(Path::new), &[])?;
        Ok(Path::new(folder.lines().last().unwrap_or_default()).join("bin/cni"))
    }

    /// Builds kube-proxy where it is not there yet; returns the program.
    ///
    /// # Errors
    /// As [`Assets::prepare`].
    pub fn kube_proxy() -> Result<PathBuf, Error> {
        let build = project()?.join(BUILD);
        let folder = run(&build, &[Path::new("kube-proxy")], &[])?;
        Ok(Path::new(folder.lines().last().unwrap_or_default()).join("bin/kube-proxy"))
    }

    /// The same, for the program inside.
    #[must_use]
    pub fn args(&self) -> Vec<std::ffi::OsString> {
        let mut pairs = vec![
            ("--kubernetes-folder", &self.kubernetes_folder),
            ("--selvedge-image", &self.selvedge_image),
            ("--deploy-folder", &self.deploy_folder),
        ];
        if let Some(Previous { binary, image }) = &self.previous {
            pairs.extend([("--previous-binary", binary), ("--previous-image", image)]);
        }
        let paths = pairs.into_iter().flat_map(|(flag, path)| [flag.into(), path.clone().into_os_string()]);
        paths.chain(["--end-to-end".into(), self.end_to_end.to_string().into()]).collect()
    }

    /// A program of Kubernetes or of its tests.
    #[must_use]
    pub fn binary(&self, name: &str) -> PathBuf {
        self.kubernetes_folder.join("bin").join(name)
    }

    /// The images that every node gets.
    pub(super) fn images(&self) -> io::Result<Vec<PathBuf>> {
        let folder = std::fs::read_dir(self.kubernetes_folder.join("images"))?;
        let mut images: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
        images.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
        images.retain(|path| self.end_to_end || path.file_stem().is_none_or(|name| name != END_TO_END));
        images.sort();
        images.push(self.selvedge_image.clone());
        images.extend(self.previous.iter().map(|previous| previous.image.clone()));
        Ok(images)
    }
}

/// The project's folder: the nearest one above this program, or above the working folder, that has the script.
fn project() -> Result<PathBuf, Error> {
    let starts = [std::env::current_exe().ok(), std::env::current_dir().ok()];
    let mut all = starts.iter().flatten().flat_map(|start| start.ancestors());
    let found = all.find(|folder| folder.join(BUILD).is_file()).map(Path::to_owned);
    found.ok_or_else(|| Error::NoProject(std::env::current_dir().unwrap_or_default()))
}

/// Has Selvedge's image made in a folder of the project's; gives where it is.
fn image(project: &Path, folder: &str, env: &[(&str, &OsStr)]) -> Result<PathBuf, Error> {
    let script = project.join(IMAGE);
    let told = run(&script, &[&project.join(folder)], env)?;
    let mut words = told.lines().filter_map(|line| line.split_whitespace().last());
    let image = words.find(|word| word.ends_with(".tar")).map(PathBuf::from);
    image.ok_or(Error::NoImage(script))
}

/// Gives what the script prints.
fn run(script: &Path, args: &[&Path], env: &[(&str, &OsStr)]) -> Result<String, Error> {
    let mut command = Command::new(script);
    command.args(args).envs(env.iter().copied()).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output();
    let output = output.map_err(|source| Error::Start { script: script.into(), source })?;
    if !output.status.success() {
        return Err(Error::Failed { script: script.into(), status: output.status });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
