use clap::{Args, CommandFactory as _, Subcommand};

use super::*;

#[derive(Debug, Parser)]
#[command(
    name = "entente",
    version,
    disable_help_flag = true,
    disable_help_subcommand = true,
    disable_version_flag = true
)]
struct Root {
    #[command(subcommand)]
    command: Program,
}

#[derive(Debug, Subcommand)]
enum Program {
    #[command(subcommand)]
    Issuer(Group),
    #[command(subcommand)]
    Agent(AgentGroup),
    Demo(Demo),
}

#[derive(Debug, Subcommand)]
enum Group {
    #[command(subcommand)]
    Entry(Verb),
}

#[derive(Debug, Subcommand)]
enum Verb {
    Show(Show),
}

#[derive(Debug, Args)]
struct Show {
    #[arg(long = "spiffeID")]
    spiffe_id: Option<String>,
    #[arg(long)]
    selector: Vec<String>,
    #[arg(long = "x509SVIDTTL", default_value_t = 0)]
    x509_svid_ttl: i32,
    #[arg(long)]
    downstream: bool,
    #[arg(long = "jwtSVIDIncludeJTI")]
    jwt_svid_include_jti: Option<bool>,
    #[command(flatten)]
    output: output::OutputArguments,
}

#[derive(Debug, Subcommand)]
enum AgentGroup {
    Fetch(Fetch),
}

#[derive(Debug, Args)]
struct Fetch {
    #[arg(long)]
    timeout: Option<String>,
    #[command(subcommand)]
    kind: Option<Kind>,
}

#[derive(Debug, Subcommand)]
enum Kind {
    Jwt,
}

#[derive(Debug, Args)]
struct Demo {
    #[arg(long)]
    once: bool,
}

fn read(line: &str) -> Result<Root, Stop> {
    parse(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect())
}

fn show(flags: &str) -> Result<Show, Stop> {
    match read(&format!("entente issuer entry show {flags}"))?.command {
        Program::Issuer(Group::Entry(Verb::Show(show))) => Ok(show),
        other => panic!("{other:?}"),
    }
}

fn stop(line: &str) -> Stop {
    read(line).unwrap_err()
}

#[test]
fn one_dash_two_dashes_equals_and_kebab_case_are_the_same() {
    for flags in ["-spiffeID a", "--spiffeID a", "-spiffeID=a", "--spiffe-id=a", "-spiffe-id a"] {
        assert_eq!(show(flags).unwrap().spiffe_id.as_deref(), Some("a"), "{flags}");
    }
}

#[test]
fn values_may_look_like_flags_and_the_last_one_counts() {
    let show = show("-x509SVIDTTL 5 -x509SVIDTTL -1 -spiffeID -- -selector a:b -selector -c").unwrap();
    assert_eq!(show.x509_svid_ttl, -1);
    assert_eq!(show.spiffe_id.as_deref(), Some("--"));
    assert_eq!(show.selector, ["a:b", "-c"]);
}

#[test]
fn booleans_take_a_value_only_after_an_equals_sign() {
    assert!(show("-downstream").unwrap().downstream);
    assert!(!show("-downstream=false").unwrap().downstream);
    assert!(!show("-downstream -downstream=0").unwrap().downstream);
    assert_eq!(show("-jwtSVIDIncludeJTI=false").unwrap().jwt_svid_include_jti, Some(false));
    assert_eq!(show("-jwtSVIDIncludeJTI").unwrap().jwt_svid_include_jti, Some(true));
    assert_eq!(show("").unwrap().jwt_svid_include_jti, None);
    let stop = stop("entente issuer entry show -downstream=maybe");
    assert!(
        stop.stderr.starts_with("invalid boolean value \"maybe\" for -downstream: parse error\n"),
        "{}",
        stop.stderr
    );
}

#[test]
fn surplus_arguments_are_ignored_for_spires_programs_only() {
    assert!(show("extra -downstream extra").unwrap().downstream);
    assert_eq!(stop("entente demo extra").status, FAILED);
}

#[test]
fn help_goes_to_stderr_and_succeeds() {
    let stop = stop("entente issuer entry show -h");
    assert_eq!((stop.status, stop.stdout.as_str()), (0, ""));
    assert!(stop.stderr.starts_with("flag: help requested\n"));
    assert!(stop.stderr.contains("--spiffeID"));
    for line in ["spire-server -h", "spire-server -help", "entente issuer --help", "entente issuer entry -h"] {
        let stop = super::tests::stop(line);
        assert_eq!((stop.status, stop.stdout.as_str()), (0, ""), "{line}");
        assert!(!stop.stderr.starts_with("flag:"), "{line}");
    }
    let own = super::tests::stop("entente --help");
    assert_eq!((own.status, own.stderr.as_str()), (0, ""));
    assert!(own.stdout.contains("issuer"));
}

#[test]
fn the_version_of_a_program_is_on_stderr() {
    for line in ["spire-server -version", "spire-agent --version", "entente issuer -version"] {
        let stop = stop(line);
        assert_eq!((stop.status, stop.stdout.as_str()), (0, ""), "{line}");
        assert_eq!(stop.stderr, format!("{}\n", env!("CARGO_PKG_VERSION")));
    }
    assert_eq!(stop("entente --version").stdout, format!("entente {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_missing_or_unknown_top_level_command_is_127_and_a_group_alone_1() {
    for line in
        ["entente", "entente nosuch", "spire-server", "spire-server nosuch", "spire-server version", "entente agent"]
    {
        assert_eq!(stop(line).status, NO_COMMAND, "{line}");
    }
    for line in ["entente issuer entry", "spire-server entry nosuch"] {
        assert_eq!(stop(line).status, FAILED, "{line}");
    }
}

#[test]
fn flag_errors_are_spires() {
    let cases = [
        ("-nosuch", "flag provided but not defined: -nosuch\n"),
        ("-spiffeID", "flag needs an argument: -spiffeID\n"),
        ("---x", "bad flag syntax: ---x\n"),
        ("-x509SVIDTTL abc", "invalid value \"abc\" for flag -x509SVIDTTL: "),
        ("-output xml", "invalid value \"xml\" for flag -output: bad formatter flag: unknown format option: \"xml\"\n"),
        (
            "-output json -output pretty",
            "invalid value \"pretty\" for flag -output: the output format has already been set to \"json\"\n",
        ),
    ];
    for (flags, start) in cases {
        let stop = stop(&format!("spire-server entry show {flags}"));
        assert_eq!(stop.status, FAILED, "{flags}");
        assert!(stop.stderr.starts_with(start), "{flags}: {}", stop.stderr);
        assert!(stop.stderr.contains("Usage:"), "{flags}");
    }
    assert_eq!(show("-output JSON -output json").unwrap().output.format, Format::Json);
}

#[test]
fn a_command_with_subcommands_runs_by_itself() {
    let Program::Agent(AgentGroup::Fetch(fetch)) = read("spire-agent fetch -timeout 1s").unwrap().command else {
        panic!("not the agent");
    };
    assert_eq!(fetch.timeout.as_deref(), Some("1s"));
    assert!(fetch.kind.is_none());
    assert!(matches!(
        read("spire-agent fetch jwt").unwrap().command,
        Program::Agent(AgentGroup::Fetch(Fetch { kind: Some(Kind::Jwt), .. }))
    ));
    assert!(!stop("spire-agent fetch -h").stderr.starts_with("flag:"));
}

#[test]
fn kebab_names() {
    let cases = [
        ("spiffeID", "spiffe-id"),
        ("x509SVIDTTL", "x509-svid-ttl"),
        ("disableX509SVIDPrefetch", "disable-x509-svid-prefetch"),
        ("jwtSVIDIncludeJTI", "jwt-svid-include-jti"),
        ("bundleEndpointURL", "bundle-endpoint-url"),
        ("disableWorkloadAPI", "disable-workload-api"),
        ("disableSDSAPI", "disable-sds-api"),
        ("trustBundleUrl", "trust-bundle-url"),
        ("once", "once"),
    ];
    for (name, kebab) in cases {
        assert_eq!(kebab_case(name), kebab);
    }
}

#[test]
fn every_command_of_the_binary_is_well_formed() {
    crate::Entente::command().debug_assert();
}
