//! The rules: their names, which tools match on, and what each is about.

/// One rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name, as `check=skip=` has it.
    pub name: &'static str,
    /// What the rule asks for, as one sentence without a full stop.
    pub description: &'static str,
    /// Runs only where `check=experimental=` asks for it.
    pub experimental: bool,
    /// Last part of the address of its documentation.
    page: Option<&'static str>,
}

impl Rule {
    /// Address of the documentation of the rule of this name.
    pub fn url(&self) -> Option<String> {
        self.page.map(|page| format!("https://docs.docker.com/go/dockerfile/rule/{page}/"))
    }
}

macro_rules! rules {
    ($($constant:ident $name:literal $page:expr, $experimental:literal, $description:literal;)*) => {
        $(pub(super) const $constant: &Rule =
            &Rule { name: $name, description: $description, experimental: $experimental, page: $page };)*
        /// Every rule.
        pub const ALL: &[&Rule] = &[$($constant),*];
    };
}

rules! {
    STAGE_NAME_CASING "StageNameCasing" Some("stage-name-casing"), false,
        "names of stages are lower case";
    FROM_AS_CASING "FromAsCasing" Some("from-as-casing"), false,
        "`AS` is written in the case of its `FROM`";
    NO_EMPTY_CONTINUATION "NoEmptyContinuation" Some("no-empty-continuation"), false,
        "an instruction that goes on over several lines has no empty line inside: it is going to be an error";
    CONSISTENT_INSTRUCTION_CASING "ConsistentInstructionCasing" Some("consistent-instruction-casing"), false,
        "all instructions of a Dockerfile are written in one case, upper or lower";
    DUPLICATE_STAGE_NAME "DuplicateStageName" Some("duplicate-stage-name"), false,
        "every stage has a name of its own";
    RESERVED_STAGE_NAME "ReservedStageName" Some("reserved-stage-name"), false,
        "words with a meaning of their own are no names of stages";
    JSON_ARGS_RECOMMENDED "JSONArgsRecommended" Some("json-args-recommended"), false,
        "CMD and ENTRYPOINT are written as JSON, so that signals reach the program and not a shell";
    MAINTAINER_DEPRECATED "MaintainerDeprecated" Some("maintainer-deprecated"), false,
        "the author of an image stands in a label: MAINTAINER is deprecated";
    UNDEFINED_ARG_IN_FROM "UndefinedArgInFrom" Some("undefined-arg-in-from"), false,
        "FROM uses only variables that an ARG before the first FROM declares";
    WORKDIR_RELATIVE_PATH "WorkdirRelativePath" Some("workdir-relative-path"), false,
        "the first WORKDIR is absolute: a relative one depends on the working directory of the base image";
    UNDEFINED_VAR "UndefinedVar" Some("undefined-var"), false,
        "variables are defined before they are used";
    MULTIPLE_INSTRUCTIONS_DISALLOWED "MultipleInstructionsDisallowed" Some("multiple-instructions-disallowed"), false,
        "a stage has at most one CMD, ENTRYPOINT and HEALTHCHECK";
    LEGACY_KEY_VALUE_FORMAT "LegacyKeyValueFormat" Some("legacy-key-value-format"), false,
        "name and value have `=` between them: the form with a blank is a relic";
    INVALID_BASE_IMAGE_PLATFORM "InvalidBaseImagePlatform" None, false,
        "the base image is for the platform that is built for";
    REDUNDANT_TARGET_PLATFORM "RedundantTargetPlatform" Some("redundant-target-platform"), false,
        "FROM need not name the target platform: it is the default";
    SECRETS_USED_IN_ARG_OR_ENV "SecretsUsedInArgOrEnv" Some("secrets-used-in-arg-or-env"), false,
        "secrets do not go through ARG and ENV: both are readable in the image";
    INVALID_DEFAULT_ARG_IN_FROM "InvalidDefaultArgInFrom" Some("invalid-default-arg-in-from"), false,
        "FROM names a valid image when no build argument is given";
    FROM_PLATFORM_FLAG_CONST_DISALLOWED "FromPlatformFlagConstDisallowed"
        Some("from-platform-flag-const-disallowed"), false,
        "the platform of FROM is a variable: a constant ties the Dockerfile to one platform";
    COPY_IGNORED_FILE "CopyIgnoredFile" Some("copy-ignored-file"), false,
        "what COPY and ADD read is not excluded by the ignore file";
    INVALID_DEFINITION_DESCRIPTION "InvalidDefinitionDescription" Some("invalid-definition-description"), true,
        "a comment right above an ARG or a named stage describes it: `# <name> <description>`; an empty line or an empty \
         comment sets any other comment apart";
    EXPOSE_PROTO_CASING "ExposeProtoCasing" Some("expose-proto-casing"), false,
        "protocols of EXPOSE are lower case";
    EXPOSE_INVALID_FORMAT "ExposeInvalidFormat" Some("expose-invalid-format"), false,
        "EXPOSE names ports of the container only, without addresses and ports of the host: those are going to be an error";
}
