//! `docker login`, `logout`, `version`, `info`.

use super::{COMPATIBLE, Failure};
use crate::build::request::RegistryOptions;
use crate::cli::template::Template;
use crate::cli::{Error, Global, login as logging, output, registry_flags};
use crate::oci::Platform;
use serde_json::{Value, json};

/// The registry that is meant where none is named.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Authenticate to a registry
#[derive(Clone, Debug, clap::Args)]
pub(super) struct LoginArgs {
    /// [SERVER]
    server: Option<String>,
    /// Username
    #[arg(short, long)]
    username: Option<String>,
    /// Password or Personal Access Token (PAT)
    #[arg(short, long)]
    password: Option<String>,
    /// Take the Password or Personal Access Token (PAT) from stdin
    #[arg(long)]
    password_stdin: bool,
}

/// Log out from a registry
#[derive(Clone, Debug, clap::Args)]
pub(super) struct LogoutArgs {
    /// [SERVER]
    server: Option<String>,
}

/// Show the Docker version information
#[derive(Clone, Debug, clap::Args)]
pub(super) struct VersionArgs {
    /// Format output using a custom template: 'json', 'TEMPLATE'
    #[arg(short, long)]
    format: Option<String>,
}

/// Display system-wide information
#[derive(Clone, Debug, clap::Args)]
pub(super) struct InfoArgs {
    /// Format output using a custom template: 'json', 'TEMPLATE'
    #[arg(short, long)]
    format: Option<String>,
}

/// Logs in.
pub(super) fn login(args: &LoginArgs, global: &Global) -> Result<(), Failure> {
    if args.password.is_some() {
        output::note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    let lowered = logging::LoginArgs {
        registry: args.server.clone(),
        username: args.username.clone(),
        password: args.password.clone(),
        password_stdin: args.password_stdin,
        get_login: false,
        verbose: false,
        access: registry_flags::AccessArgs::default(),
    };
    let server = args.server.as_deref().unwrap_or(DEFAULT_REGISTRY);
    logging::check(server, &lowered, &RegistryOptions::default(), global)?;
    Ok(output::print_line("Login Succeeded")?)
}

/// Logs out. Docker does not mind where nobody was logged in.
pub(super) fn logout(args: &LogoutArgs, global: &Global) -> Result<(), Failure> {
    let server = args.server.as_deref().unwrap_or(DEFAULT_REGISTRY);
    let client = registry_flags::client(&RegistryOptions::default(), global)?;
    let known = client.logout(server, None).map_err(Error::from)?;
    let text = if known { "Removing login credentials for" } else { "Not logged in to" };
    Ok(output::print_line(&format!("{text} {server}"))?)
}

/// Shows versions.
pub(super) fn version(args: &VersionArgs) -> Result<(), Failure> {
    let Platform { os, architecture, .. } = Platform::host();
    let part = json!({
        "Version": COMPATIBLE,
        "ApiVersion": "1.50",
        "GitCommit": format!("rbuild-{}", env!("CARGO_PKG_VERSION")),
        "Os": os,
        "Arch": architecture,
    });
    let value = json!({ "Client": part, "Server": part });
    if let Some(format) = &args.format {
        return print_formatted(format, &value);
    }
    let section = |name: &str| {
        format!(
            "{name}\n Version:           {COMPATIBLE}\n API version:       1.50\n Git commit:        rbuild-{}\n OS/Arch:           {os}/{architecture}\n",
            env!("CARGO_PKG_VERSION")
        )
    };
    let text = format!("{}\n{}", section("Client: rbuild"), section("Server: none, the client builds by itself"));
    Ok(output::print(&text)?)
}

/// Shows where images are.
pub(super) fn info(args: &InfoArgs, global: &Global) -> Result<(), Failure> {
    let store = global.store()?;
    let images = crate::cli::listing::images(&store)?.len();
    let Platform { os, architecture, .. } = Platform::host();
    let root = store.root().display().to_string();
    let value = json!({
        "Containers": 0,
        "Images": images,
        "Driver": "overlay2",
        "ServerVersion": COMPATIBLE,
        "OSType": os,
        "Architecture": architecture,
        "DockerRootDir": root,
        "SecurityOptions": ["name=rootless"],
    });
    if let Some(format) = &args.format {
        return print_formatted(format, &value);
    }
    let text = format!(
        "Client: rbuild\n Version:    {COMPATIBLE}\n\nServer:\n Containers: 0\n Images: {images}\n Server Version: {COMPATIBLE}\n \
         Storage Driver: overlay2\n Security Options:\n  rootless\n OSType: {os}\n Architecture: {architecture}\n \
         Docker Root Dir: {root}\n"
    );
    Ok(output::print(&text)?)
}

fn print_formatted(format: &str, value: &Value) -> Result<(), Failure> {
    let template = Template::parse(if format == "json" { "{{json .}}" } else { format })?;
    Ok(output::print_line(&template.render(value)?)?)
}
