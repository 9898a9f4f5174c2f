//! `rbuild import`: a root file system tar as an image.

use super::names::Naming;
use super::{Error, Global, bud, output, platform::PlatformArgs, values};
use crate::oci::{ContainerConfig, Empty};
use crate::source::archives::{self, RootFsOptions};
use jiff::Timestamp;
use std::io::{self, Read};
use std::path::Path;

/// Make an image of one layer from a root file system tar
#[derive(Clone, Debug, clap::Args)]
pub struct ImportArgs {
    /// The tar, compressed or not, or `-` for standard input
    pub tar: String,
    /// Name of the image
    pub name: Option<String>,
    /// Instruction to apply: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Comment in the history
    #[arg(short, long)]
    pub message: Option<String>,
    /// For which platform the image is.
    #[command(flatten)]
    pub platform: PlatformArgs,
    /// Accepted for podman's sake
    #[arg(short, long)]
    pub quiet: bool,
}

/// Imports a tar and prints the image id, in the dialect's form.
pub fn run(args: &ImportArgs, naming: Naming, global: &Global) -> Result<(), Error> {
    let mut config = ContainerConfig::default();
    for change in &args.change {
        apply(change, &mut config)?;
    }
    let platform = args.platform.platform()?;
    let names: Vec<String> = args.name.iter().map(|n| Ok(naming.full(n)?.to_string())).collect::<Result<_, Error>>()?;
    let options = RootFsOptions {
        platform: Some(platform),
        config,
        created: created(bud::source_date_epoch(&values::process_var)?),
        comment: args.message.clone().unwrap_or_else(|| imported_from(&args.tar)),
    };
    let input: Box<dyn Read + Send> = match args.tar.as_str() {
        "-" => Box::new(io::stdin()),
        url if url.contains("://") => {
            return Err(Error::unsupported("a tar behind a URL", "fetch it, and pipe it into `rbuild import - NAME`"));
        }
        path => Box::new(std::fs::File::open(path).map_err(Error::file("open", Path::new(path)))?),
    };
    let store = global.store()?;
    let image = archives::import(&store, input, options)?;
    store.publish(&names, &image.manifest)?;
    output::print_line(&if naming == Naming::Docker { image.id.to_string() } else { image.id.hex() })
}

/// The creation time of something that is made now, or at `SOURCE_DATE_EPOCH`.
fn created(epoch: Option<i64>) -> String {
    let time = epoch.and_then(|s| Timestamp::from_second(s).ok()).unwrap_or_else(Timestamp::now);
    time.to_string()
}

/// Applies one instruction to a config. The values are those of `docker import --change`: no variables, no shell.
fn apply(change: &str, config: &mut ContainerConfig) -> Result<(), Error> {
    let bad = || Error::usage(format!("invalid change `{change}`"));
    let (word, rest) = change.trim().split_once(char::is_whitespace).ok_or_else(bad)?;
    let rest = rest.trim();
    let list = || serde_json::from_str::<Vec<String>>(rest).ok();
    let argv = || list().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), rest.to_owned()]);
    let words = || list().unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
    let pairs = || -> Result<Vec<(String, String)>, Error> {
        match rest.split_once('=') {
            // The old form has one name, a blank, and the value.
            None => {
                rest.split_once(char::is_whitespace).map(|(n, v)| vec![(n.into(), v.trim().into())]).ok_or_else(bad)
            }
            Some((name, _)) if name.contains(char::is_whitespace) => {
                rest.split_once(char::is_whitespace).map(|(n, v)| vec![(n.into(), v.trim().into())]).ok_or_else(bad)
            }
            Some((name, value)) => Ok(vec![(name.into(), value.trim_matches('"').into())]),
        }
    };
    match word.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = Some(argv()),
        "ENTRYPOINT" => config.entrypoint = Some(argv()),
        "ENV" => pairs()?.iter().for_each(|(n, v)| config.set_env(n, v)),
        "LABEL" => config.labels.extend(pairs()?),
        "USER" => config.user = rest.into(),
        "WORKDIR" => config.working_dir = rest.into(),
        "STOPSIGNAL" => config.stop_signal = Some(rest.into()),
        "VOLUME" => config.volumes.extend(words().into_iter().map(|v| (v, Empty {}))),
        "EXPOSE" => {
            let port = |p: String| if p.contains('/') { p } else { format!("{p}/tcp") };
            config.exposed_ports.extend(words().into_iter().map(|p| (port(p), Empty {})));
        }
        other => {
            return Err(Error::unsupported(
                format!("`--change {other}`"),
                "use CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR",
            ));
        }
    }
    Ok(())
}

/// Says where the files came from, without the directory: the same archive gives the same image wherever it lies.
fn imported_from(tar: &str) -> String {
    let name = std::path::Path::new(tar).file_name().map_or(tar.into(), |n| n.to_string_lossy());
    format!("imported from {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_applied() {
        let mut c = ContainerConfig::default();
        for change in [
            "CMD [\"a\", \"b\"]",
            "ENTRYPOINT run me",
            "env A=1",
            "ENV B two words",
            "LABEL l=\"x y\"",
            "EXPOSE 80 53/udp",
        ] {
            apply(change, &mut c).unwrap();
        }
        assert_eq!(c.cmd.unwrap(), ["a", "b"]);
        assert_eq!(c.entrypoint.unwrap(), ["/bin/sh", "-c", "run me"]);
        assert_eq!(c.env, ["A=1", "B=two words"]);
        assert_eq!(c.labels["l"], "x y");
        assert_eq!(c.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        let refused = apply("RUN x", &mut ContainerConfig::default()).unwrap_err();
        assert!(refused.hint().is_some());
        assert!(apply("CMD", &mut ContainerConfig::default()).is_err());
    }
}
