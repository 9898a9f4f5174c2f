//! `rbuild login` and `rbuild logout`.

use super::registry_flags::{self, AccessArgs};
use super::{Error, Global, output};
use crate::build::request::RegistryOptions;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;

/// Longest password that is read, in bytes.
const MAX_PASSWORD_BYTES: u64 = 64 << 10;

/// Log in to a registry
#[derive(Clone, Debug, clap::Args)]
pub struct LoginArgs {
    /// The registry: host with optional port
    pub registry: Option<String>,
    /// The user
    #[arg(short, long)]
    pub username: Option<String>,
    /// The password; other users of the machine can see it
    #[arg(short, long)]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Print the user that is logged in
    #[arg(long)]
    pub get_login: bool,
    /// Accepted for buildah's sake
    #[arg(short, long)]
    pub verbose: bool,
    /// Where credentials are and how the registry is spoken to.
    #[command(flatten)]
    pub access: AccessArgs,
}

/// Log out of a registry
#[derive(Clone, Debug, clap::Args)]
pub struct LogoutArgs {
    /// The registry: host with optional port
    pub registry: Option<String>,
    /// Log out of all registries
    #[arg(short, long)]
    pub all: bool,
    /// Credentials file, in place of the usual ones
    #[arg(long, value_name = "PATH")]
    pub authfile: Option<PathBuf>,
}

/// Logs in.
pub fn login(args: &LoginArgs, global: &Global) -> Result<(), Error> {
    let registry = args.registry.as_deref().ok_or_else(|| Error::usage("please specify a registry to login to"))?;
    if args.get_login {
        return Err(Error::unsupported("`--get-login`", "look into the credentials file: `auths` holds what is known"));
    }
    if !args.access.registry_token_file.is_empty() {
        return Err(Error::usage_hint(
            "`--registry-token-file` has no meaning for a login: nothing is stored",
            "pass it to what speaks to the registry, such as `rbuild bud`",
        ));
    }
    // A credentials file that does not exist yet is made by the login.
    let access = AccessArgs { authfile: None, ..args.access.clone() };
    check(registry, args, &access.lower()?, global)?;
    output::print_line("Login Succeeded!")
}

/// Checks user and password with the registry and stores them.
pub fn check(registry: &str, args: &LoginArgs, options: &RegistryOptions, global: &Global) -> Result<(), Error> {
    if args.password.is_some() && args.password_stdin {
        return Err(Error::usage("`--password` and `--password-stdin` contradict each other"));
    }
    if args.password_stdin && args.username.is_none() {
        return Err(Error::usage("`--password-stdin` needs `--username`"));
    }
    let user = match &args.username {
        Some(u) => u.clone(),
        None => ask("Username: ")?,
    };
    let password = match (&args.password, args.password_stdin) {
        (Some(p), _) => p.clone(),
        (None, true) => read_stdin()?,
        (None, false) => secret("Password: ")?,
    };
    if password.is_empty() {
        return Err(Error::usage_hint("the password is empty", "pass it on standard input with `--password-stdin`"));
    }
    let client = registry_flags::client(options, global)?;
    let registry = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    Ok(client.login(registry, &user, &password, args.access.authfile.as_deref())?)
}

/// Logs out.
pub fn logout(args: &LogoutArgs, global: &Global) -> Result<(), Error> {
    if args.all {
        return Err(Error::unsupported("`--all`", "log out of each registry by its name"));
    }
    let registry = args.registry.as_deref().ok_or_else(|| Error::usage("registry must be given"))?;
    let client = registry_flags::client(&RegistryOptions::default(), global)?;
    if client.logout(registry, args.authfile.as_deref())? {
        output::print_line(&format!("Removed login credentials for {registry}"))
    } else {
        Err(Error::NotFound(format!("not logged into {registry}")))
    }
}

fn read_stdin() -> Result<String, Error> {
    let mut text = String::new();
    let read = io::stdin().lock().take(MAX_PASSWORD_BYTES).read_to_string(&mut text);
    read.map_err(Error::file("read", "standard input".as_ref()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn ask(prompt: &str) -> Result<String, Error> {
    if !io::stdin().is_terminal() {
        return Err(Error::usage_hint(
            "user and password are asked for on a terminal, and this is none",
            "pass `--username USER --password-stdin`",
        ));
    }
    let failed = || Error::file("read", "standard input".as_ref());
    let mut err = io::stderr();
    let _ = write!(err, "{prompt}").and_then(|()| err.flush());
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(failed())?;
    Ok(line.trim().to_owned())
}

/// Asks without showing what is typed.
fn secret(prompt: &str) -> Result<String, Error> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    let saved = tcgetattr(&stdin).ok();
    if let Some(mut quiet) = saved.clone() {
        quiet.local_modes.remove(LocalModes::ECHO);
        let _ = tcsetattr(&stdin, OptionalActions::Flush, &quiet);
    }
    let answer = ask(prompt);
    if let Some(saved) = saved {
        let _ = tcsetattr(&stdin, OptionalActions::Flush, &saved);
        output::note("");
    }
    answer
}
