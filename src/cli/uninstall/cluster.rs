//! `selvedge uninstall` from a whole cluster.

use anyhow::anyhow;
use serde_json::json;

use super::super::progress::Progress;
use super::super::{Exit, Failure, Output, print};
use super::Args;
use crate::cluster::connect;
use crate::cluster::removal::{self, News, Options};
use crate::cluster::there::{Step, There};

const NOTHING: &str = "nothing of Selvedge is left in this cluster";
const UNCLEANED: &str = "no agent is left to tell how nodes are cleaned: where that was not done, run `selvedge \
                         uninstall --node --yes` on the node";

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    super::super::block_on(async {
        let (client, _) = connect(&args.access).await?;
        if args.yes { remove(&client, args).await } else { look(&client, args).await }
    })
}

/// What would be removed.
async fn look(client: &kube::Client, args: &Args) -> Result<Exit, Failure> {
    let there = There::look(client).await?;
    if let Some(why) = there.elsewhere() {
        return Err(Failure::new(Exit::Findings, anyhow!("{why}")));
    }
    let steps = there.steps(args.purge);
    if there.cannot_clean() {
        Progress::new().say(UNCLEANED);
    }
    print(&answer(args.output, &steps, !steps.is_empty()))?;
    Ok(if steps.is_empty() { Exit::Ok } else { Exit::Findings })
}

async fn remove(client: &kube::Client, args: &Args) -> Result<Exit, Failure> {
    let mut progress = Progress::new();
    let options = Options { purge: args.purge, image: args.image.clone(), timeout: args.timeout };
    let mut tell = |news: News<'_>| match news {
        News::Done(step) => progress.say(&format!("removed {step}")),
        News::Waits(text) => progress.now(text),
    };
    let (steps, uncleaned) = removal::all(client, &options, &mut tell).await?;
    drop(progress);
    if uncleaned {
        let what = format!(
            "nothing of Selvedge is left in the cluster's API, but its nodes were not cleaned: {UNCLEANED}"
        );
        return Err(Failure::new(Exit::Findings, anyhow!(what)));
    }
    print(&answer(args.output, &steps, false))?;
    Ok(Exit::Ok)
}

fn answer(output: Output, steps: &[Step], left: bool) -> String {
    if output == Output::Json {
        let list: Vec<_> = steps.iter().map(|step| json!({"what": step.to_string(), "step": step})).collect();
        return format!("{:#}\n", json!({"left": left, "steps": list}));
    }
    if !left {
        return format!("{NOTHING}\n");
    }
    let list: String = steps.iter().map(|step| format!("would remove {step}\n")).collect();
    list + "nothing was changed; run it again with --yes to remove all this\n"
}
