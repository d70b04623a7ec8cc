//! `selvedge uninstall` from a whole cluster.

use serde_json::json;

use super::super::progress::Progress;
use super::super::{Exit, Failure, Output};
use super::Args;
use crate::cluster::removal::{Options, Removal, Step, There};
use crate::cluster::{self, connect};

const NOTHING: &str = "nothing of Selvedge is left in this cluster";

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    super::super::block_on(async {
        let (client, _) = connect(&args.access).await?;
        let there = There::look(&client).await?;
        let steps = there.steps();
        if !args.yes || steps.is_empty() {
            let left = !steps.is_empty();
            print(args.output, &steps, left);
            return Ok(if left { Exit::Findings } else { Exit::Ok });
        }
        let mut progress = Progress::new();
        if there.cannot_clean() {
            progress.say(
                "no agent is left to tell how nodes are cleaned: where that was not done, run `selvedge uninstall \
                 --node --yes` on the node",
            );
        }
        let options = Options { purge: args.purge, image: args.image.clone(), timeout: args.timeout };
        remove(client, options, &there, &steps, &mut progress).await?;
        drop(progress);
        print(args.output, &steps, false);
        Ok(Exit::Ok)
    })
}

async fn remove(
    client: kube::Client,
    options: Options,
    there: &There,
    steps: &[Step],
    progress: &mut Progress,
) -> Result<(), cluster::Error> {
    for step in steps {
        let mut tell = |text: &str| progress.now(text);
        Removal { client: client.clone(), options: options.clone(), tell: &mut tell }
            .run(there, step)
            .await?;
        progress.say(&format!("removed {step}"));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is the answer")]
fn print(output: Output, steps: &[Step], left: bool) {
    if output == Output::Json {
        let list: Vec<_> = steps.iter().map(|step| json!({"what": step.to_string(), "step": step})).collect();
        return println!("{:#}", json!({"left": left, "steps": list}));
    }
    if !left {
        return println!("{NOTHING}");
    }
    steps.iter().for_each(|step| println!("would remove {step}"));
    println!("nothing was changed; run it again with --yes to remove all this");
}
