//! Runs the shell blocks of `docs/walkthrough.md` word for word, in one shell, in an empty folder, and compares what
//! they print with the text blocks that follow them.

use std::{env, fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use entente_tests::{binary, cli, process, wait};
use tokio::process::Command;

/// A shell block and the output the document promises after it.
#[derive(Debug, Default)]
struct Step {
    line: usize,
    commands: String,
    promised: Option<String>,
}

/// Every ```sh block with the ```text block that directly follows it, if one does.
fn steps(document: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.strip_prefix("```").filter(|language| !language.is_empty()) else { continue };
        let mut block = String::new();
        loop {
            let (_, line) = lines.next().with_context(|| format!("the block of line {} has no end", number + 1))?;
            if line == "```" {
                break;
            }
            block.push_str(line);
            block.push('\n');
        }
        match language {
            "sh" => steps.push(Step { line: number + 1, commands: block, promised: None }),
            "text" => {
                let step = steps.last_mut().context("output before any command")?;
                ensure!(step.promised.is_none(), "two outputs for one block, line {}", number + 1);
                step.promised = Some(block);
            }
            other => bail!("line {}: a block in `{other}`; use sh or text", number + 1),
        }
    }
    ensure!(steps.len() > 5, "only {} blocks found", steps.len());
    Ok(steps)
}

/// Whether `line` fits `pattern`, in which each `…` stands for any text.
fn fits(line: &str, pattern: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('…') else { return line == pattern };
    let Some(line) = line.strip_prefix(head) else { return false };
    line.char_indices().map(|(at, _)| at).chain([line.len()]).any(|at| fits(&line[at..], rest))
}

/// Fails unless the promised lines appear among the printed ones, in order.
fn check(step: &Step, printed: &str) -> Result<()> {
    let mut lines = printed.lines();
    for promised in step.promised.as_deref().unwrap_or_default().lines().filter(|line| !line.trim().is_empty()) {
        if !lines.any(|line| fits(line.trim(), promised.trim())) {
            bail!("line {}: the document promises `{promised}`, but the commands printed\n{printed}", step.line);
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_documented_commands_work_word_for_word() -> Result<()> {
    let document = fs::read_to_string(binary::repository().join("docs/walkthrough.md"))?;
    let steps = steps(&document)?;
    let folder = tempfile::Builder::new().prefix("walk-").tempdir_in("/tmp")?;
    let program = binary::entente()?.parent().context("a binary without folder")?;

    let marker = "=-=-= block";
    let mut script = String::from("set -eu\n");
    for (index, step) in steps.iter().enumerate() {
        script.push_str(&format!("echo '{marker} {index}'\n{}", step.commands));
    }
    script.push_str(&format!("echo '{marker} end'\n"));
    fs::write(folder.path().join("walkthrough.sh"), &script)?;

    let path = env::join_paths(
        std::iter::once(program.to_owned()).chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )?;
    let mut shell = Command::new("sh");
    shell.arg("walkthrough.sh").current_dir(folder.path()).env("PATH", path);
    for variable in
        ["ENTENTE_ISSUER_SOCKET", "SPIRE_SERVER_PRIVATE_SOCKET", "SPIRE_AGENT_PUBLIC_SOCKET", "SPIFFE_ENDPOINT_SOCKET"]
    {
        shell.env_remove(variable);
    }
    let answer = cli::run(shell, "").await?;
    let logs = || logs(&folder.path().join("walkthrough"));
    ensure!(answer.code == 0, "the shell ended with {}\n{}\n{}\n{}", answer.code, answer.stdout, answer.stderr, logs());
    for (index, step) in steps.iter().enumerate() {
        let begin = answer.stdout.split_once(&format!("{marker} {index}\n")).context("a block printed no marker")?.1;
        let printed = begin.split_once(marker).context("a block has no end")?.0;
        check(step, printed).with_context(logs)?;
    }
    // The last block stops both services.
    wait::until_within("both services are gone", Duration::from_secs(20), || async {
        for health in ["http://127.0.0.1:18090/live", "http://127.0.0.1:18091/live"] {
            ensure!(entente_tests::domain::get(health).await.is_err(), "{health} still answers");
        }
        Ok(())
    })
    .await
}

fn logs(folder: &Path) -> String {
    ["issuer", "agent"].map(|name| process::tail(name, &folder.join(format!("{name}.log")))).join("\n")
}

#[test]
fn patterns_stand_for_any_text() {
    assert!(fits("Token: 1234", "Token: …"));
    assert!(fits("Found 1 entry", "Found 1 entry"));
    assert!(fits("a b c", "a…c"));
    assert!(fits("{{}}", "{…}"));
    assert!(!fits("Found 12 entries", "Found 1"));
    assert!(!fits("xToken: 1234", "Token: …"));
}
