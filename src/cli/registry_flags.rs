//! The flags about registries that many verbs share, and the client they become.

use super::{Error, Global, values};
use crate::build::request::{Credentials, RegistryOptions};
use crate::registry;
use std::path::PathBuf;
use std::time::Duration;

/// `--authfile`, `--creds`, `--registry-token-file`, `--tls-verify`, `--cert-dir`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AccessArgs {
    /// Credentials file, in place of the usual ones
    #[arg(long, value_name = "PATH")]
    pub authfile: Option<PathBuf>,
    /// User and password for the registry
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub creds: Option<String>,
    /// File with a token for a registry, such as a service account's, read whenever one is needed:
    /// `REGISTRY[/PATH]=FILE[,as=password|bearer|identity|exchange|robot][,user=…][,at=URL][,audience=…]`
    /// [env: RBUILD_REGISTRY_TOKEN_FILE]
    #[arg(long, value_name = "REGISTRY=FILE", conflicts_with = "creds")]
    pub registry_token_file: Vec<registry::TokenFile>,
    /// Require HTTPS and verify certificates
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub tls_verify: Option<bool>,
    /// Directory with certificates and keys for the registry
    #[arg(long, value_name = "PATH")]
    pub cert_dir: Option<PathBuf>,
}

/// [`AccessArgs`] and how often to try again.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RegistryArgs {
    /// Who may do what.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Times to try again after a failed transfer
    #[arg(long, value_name = "N", default_value_t = 3, allow_negative_numbers = true)]
    pub retry: u32,
    /// Pause between tries
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub retry_delay: Option<Duration>,
    /// Longest silence of a registry before a transfer counts as failed [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = values::some_time)]
    pub registry_timeout: Option<Duration>,
}

/// Which images may come from outside.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PolicyArgs {
    /// policy.json to read in place of the usual ones
    #[arg(long, value_name = "FILE")]
    pub signature_policy: Option<PathBuf>,
}

impl AccessArgs {
    /// The options that these flags ask for. A password that `--creds` leaves out is read from the terminal.
    pub fn lower(&self) -> Result<RegistryOptions, Error> {
        let creds = match &self.creds {
            None => None,
            Some(text) => match text.split_once(':') {
                Some((user, password)) if !user.is_empty() => {
                    Some(Credentials { username: user.into(), password: password.into() })
                }
                _ => {
                    return Err(Error::usage_hint(
                        "`--creds` has no password",
                        "write `--creds USER:PASSWORD`, or use `rbuild login`",
                    ));
                }
            },
        };
        if let Some(file) = &self.authfile
            && !file.exists()
        {
            return Err(Error::usage_hint(
                format!("there is no credentials file `{}`", file.display()),
                format!(
                    "`rbuild login --authfile {}` makes one; without the flag, the usual files count",
                    file.display()
                ),
            ));
        }
        if let Some(dir) = &self.cert_dir
            && !dir.is_dir()
        {
            return Err(Error::usage(format!("there is no directory of certificates `{}`", dir.display())));
        }
        Ok(RegistryOptions {
            authfile: self.authfile.clone(),
            creds,
            token_files: self.registry_token_file.clone(),
            tls_verify: self.tls_verify,
            cert_dir: self.cert_dir.clone(),
            ..RegistryOptions::default()
        })
    }
}

impl RegistryArgs {
    /// The options that these flags ask for.
    pub fn lower(&self) -> Result<RegistryOptions, Error> {
        let RegistryArgs { access, retry, retry_delay, registry_timeout } = self;
        let (retry_delay, timeout) = (*retry_delay, *registry_timeout);
        Ok(RegistryOptions { retry: *retry, retry_delay, timeout, ..access.lower()? })
    }
}

/// The settings of a registry client.
pub fn client_options(options: &RegistryOptions, global: &Global) -> registry::Options {
    let default = registry::Options::default();
    registry::Options {
        authfile: options.authfile.clone(),
        creds: options.creds.as_ref().map(|c| (c.username.clone(), c.password.clone())),
        token_files: options.token_files.clone(),
        tls_verify: options.tls_verify,
        cert_dir: options.cert_dir.clone(),
        retries: options.retry,
        retry_delay: options.retry_delay.unwrap_or(default.retry_delay),
        timeouts: options.timeout.map_or(default.timeouts, registry::Timeouts::of_silence),
        registries_conf: global.registries_conf.clone(),
        registries_conf_dir: global.registries_conf_dir.clone(),
        ..default
    }
}

/// A client with these options.
pub fn client(options: &RegistryOptions, global: &Global) -> Result<registry::Client, Error> {
    Ok(registry::Client::new(client_options(options, global))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_reaches_the_client() {
        let access = AccessArgs {
            creds: Some("u:p:q".into()),
            tls_verify: Some(false),
            cert_dir: Some("src".into()),
            authfile: Some("Cargo.toml".into()),
            registry_token_file: vec!["r.test=/token,as=bearer".parse().unwrap()],
        };
        let args = RegistryArgs {
            access,
            retry: 9,
            retry_delay: Some(Duration::from_secs(7)),
            registry_timeout: Some(Duration::from_secs(5)),
        };
        let global = Global {
            registries_conf: Some("conf".into()),
            registries_conf_dir: Some("conf.d".into()),
            ..Global::default()
        };
        let options = client_options(&args.lower().unwrap(), &global);
        assert_eq!(options.token_files, ["r.test=/token,as=bearer".parse().unwrap()]);
        assert_eq!(options.creds, Some(("u".into(), "p:q".into())));
        assert_eq!((options.tls_verify, options.retries, options.retry_delay.as_secs()), (Some(false), 9, 7));
        let timeouts = options.timeouts;
        let seconds = [timeouts.connect, timeouts.answer, timeouts.idle, timeouts.store].map(|t| t.as_secs());
        assert_eq!(seconds, [5, 5, 5, 25]);
        let paths = [options.cert_dir, options.authfile, options.registries_conf, options.registries_conf_dir];
        assert_eq!(paths, ["src", "Cargo.toml", "conf", "conf.d"].map(|p| Some(p.into())));
        assert_eq!(
            client_options(&RegistryOptions::default(), &global).retry_delay,
            registry::Options::default().retry_delay
        );
    }
}
