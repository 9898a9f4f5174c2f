//! Go templates for `--format`, as far as people use them on images: fields, `json`, `index`, `len`, `join`, `upper`,
//! `lower`, `println`, `range`, `if`, `else`, `end`. Anything else is refused by name; nothing is guessed.

use super::Error;
use serde_json::Value;

/// Blocks may nest this deep.
const MAX_DEPTH: usize = 16;

const HINT: &str = "use fields such as `{{.Id}}`, and `json`, `index`, `len`, `join`, `upper`, `lower`, `println`, \
                    `range`, `if`";

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template(Vec<Node>);

#[derive(Debug, Clone)]
enum Node {
    Text(String),
    Print(Expr),
    Range(Expr, Vec<Node>),
    If(Expr, Vec<Node>, Vec<Node>),
}

#[derive(Debug, Clone)]
enum Expr {
    /// `.A.B`; empty: the dot itself.
    Field(Vec<String>),
    Literal(Value),
    Call(Function, Vec<Expr>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Json,
    Index,
    Len,
    Join,
    Upper,
    Lower,
    Println,
}

fn refuse(what: &str) -> Error {
    Error::unsupported(format!("`{what}` in a template"), HINT)
}

impl Template {
    /// Parses a template. `\t` and `\n` written as two characters are a tab and a newline, as the command line needs.
    ///
    /// # Errors
    /// What is not supported, and blocks without an end.
    pub fn parse(text: &str) -> Result<Template, Error> {
        let mut blocks: Vec<Open> = vec![Open::root()];
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, next) =
                after.split_once("}}").ok_or_else(|| Error::usage("a template action has no closing `}}`"))?;
            push_text(&mut blocks, before, action.starts_with('-'));
            rest = if action.ends_with('-') { next.trim_start() } else { next };
            let action = action.trim_start_matches('-').trim_end_matches('-').trim();
            apply(action, &mut blocks)?;
        }
        push_text(&mut blocks, rest, false);
        match (blocks.pop(), blocks.is_empty()) {
            (Some(root), true) => Ok(Template(root.nodes)),
            _ => Err(Error::usage("a template block has no `{{end}}`")),
        }
    }

    /// The text that the template makes of a value.
    ///
    /// # Errors
    /// A field that the value does not have.
    pub fn render(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        render(&self.0, value, &mut out)?;
        Ok(out)
    }
}

/// A block whose end has not come yet.
struct Open {
    kind: Kind,
    nodes: Vec<Node>,
    /// The nodes before `else`.
    before_else: Option<Vec<Node>>,
}

enum Kind {
    Root,
    Range(Expr),
    If(Expr),
}

impl Open {
    fn root() -> Open {
        Open { kind: Kind::Root, nodes: vec![], before_else: None }
    }
}

fn push_text(blocks: &mut [Open], text: &str, trim: bool) {
    let text = if trim { text.trim_end() } else { text };
    if let Some(block) = blocks.last_mut().filter(|_| !text.is_empty()) {
        block.nodes.push(Node::Text(text.replace("\\t", "\t").replace("\\n", "\n")));
    }
}

fn apply(action: &str, blocks: &mut Vec<Open>) -> Result<(), Error> {
    let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
    match word {
        "range" | "if" => {
            if blocks.len() > MAX_DEPTH {
                return Err(Error::usage("template blocks nest too deep"));
            }
            let expr = parse_expr(rest)?;
            let kind = if word == "range" { Kind::Range(expr) } else { Kind::If(expr) };
            blocks.push(Open { kind, nodes: vec![], before_else: None });
        }
        "else" if rest.is_empty() => match blocks.last_mut() {
            Some(open) if matches!(open.kind, Kind::If(_)) && open.before_else.is_none() => {
                open.before_else = Some(std::mem::take(&mut open.nodes));
            }
            _ => return Err(Error::usage("`{{else}}` without `{{if}}`")),
        },
        "end" => {
            let open = blocks.pop().ok_or_else(|| Error::usage("`{{end}}` without a block"))?;
            let node = match open.kind {
                Kind::Root => return Err(Error::usage("`{{end}}` without a block")),
                Kind::Range(expr) => Node::Range(expr, open.nodes),
                Kind::If(expr) => match open.before_else {
                    Some(yes) => Node::If(expr, yes, open.nodes),
                    None => Node::If(expr, open.nodes, vec![]),
                },
            };
            match blocks.last_mut() {
                Some(block) => block.nodes.push(node),
                None => return Err(Error::usage("`{{end}}` without a block")),
            }
        }
        _ => {
            let expr = parse_expr(action)?;
            if let Some(block) = blocks.last_mut() {
                block.nodes.push(Node::Print(expr));
            }
        }
    }
    Ok(())
}

/// Words of an action: blanks separate, quotes hold together.
fn words(text: &str) -> Result<Vec<String>, Error> {
    let (mut out, mut current, mut quote) = (vec![], String::new(), None);
    for c in text.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => {
                current.push('"');
                quote = None;
            }
            (Some(_), c) => current.push(c),
            (None, '"' | '`') => {
                current.push('"');
                quote = Some(c);
            }
            (None, '|' | '(' | ')' | '$') => return Err(refuse(&c.to_string())),
            (None, c) if c.is_whitespace() => {
                if !current.is_empty() {
                    out.push(std::mem::take(&mut current));
                }
            }
            (None, c) => current.push(c),
        }
    }
    if quote.is_some() {
        return Err(Error::usage("a quote in a template is not closed"));
    }
    if !current.is_empty() {
        out.push(current);
    }
    Ok(out)
}

fn parse_expr(text: &str) -> Result<Expr, Error> {
    let words = words(text)?;
    let (first, args) = words.split_first().ok_or_else(|| Error::usage("a template action is empty"))?;
    let function = match first.as_str() {
        "json" => Some((Function::Json, 1..=1)),
        "index" => Some((Function::Index, 2..=4)),
        "len" => Some((Function::Len, 1..=1)),
        "join" => Some((Function::Join, 2..=2)),
        "upper" => Some((Function::Upper, 1..=1)),
        "lower" => Some((Function::Lower, 1..=1)),
        "println" => Some((Function::Println, 0..=4)),
        _ => None,
    };
    match function {
        Some((f, count)) if count.contains(&args.len()) => {
            Ok(Expr::Call(f, args.iter().map(|a| operand(a)).collect::<Result<_, _>>()?))
        }
        Some(_) => Err(Error::usage(format!("wrong number of arguments for `{first}` in a template"))),
        None if args.is_empty() => operand(first),
        None => Err(refuse(first)),
    }
}

fn operand(word: &str) -> Result<Expr, Error> {
    if let Some(quoted) = word.strip_prefix('"').and_then(|w| w.strip_suffix('"')) {
        return Ok(Expr::Literal(Value::String(quoted.to_owned())));
    }
    if let Ok(n) = word.parse::<i64>() {
        return Ok(Expr::Literal(Value::from(n)));
    }
    match word.strip_prefix('.') {
        Some("") => Ok(Expr::Field(vec![])),
        Some(path) if path.split('.').all(|p| !p.is_empty() && p.chars().all(|c| c.is_alphanumeric() || c == '_')) => {
            Ok(Expr::Field(path.split('.').map(str::to_owned).collect()))
        }
        _ => Err(refuse(word)),
    }
}

/// A key by Go's name of the field or by its JSON name: `RootFS` finds `rootfs`, `DiffIDs` finds `diff_ids`.
fn lookup<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let plain = |s: &str| s.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
    let map = value.as_object()?;
    map.get(name).or_else(|| map.iter().find(|(k, _)| plain(k) == plain(name)).map(|(_, v)| v))
}

fn field(value: &Value, path: &[String]) -> Result<Value, Error> {
    let mut at = value;
    for (depth, name) in path.iter().enumerate() {
        at = match lookup(at, name) {
            Some(v) => v,
            None if depth > 0 && !matches!(at, Value::String(_) | Value::Number(_) | Value::Bool(_)) => {
                return Ok(Value::String("<no value>".into()));
            }
            None => {
                let known = at.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>().join(", "));
                return Err(Error::usage_hint(
                    format!("the template asks for `.{}`, which does not exist", path.join(".")),
                    known.map_or(HINT.into(), |k| format!("there are: {k}")),
                ));
            }
        };
    }
    Ok(match (at, path.last().map(String::as_str)) {
        // Go prints the empty value of the field's type, which JSON's null does not tell.
        (Value::Null, Some("Labels" | "Volumes" | "ExposedPorts" | "Annotations" | "ImageAnnotations")) => {
            Value::Object(serde_json::Map::new())
        }
        (Value::Null, Some(_)) => Value::Array(vec![]),
        (v, _) => v.clone(),
    })
}

fn eval(expr: &Expr, value: &Value) -> Result<Value, Error> {
    let (function, args) = match expr {
        Expr::Field(path) => return field(value, path),
        Expr::Literal(v) => return Ok(v.clone()),
        Expr::Call(f, args) => (*f, args.iter().map(|a| eval(a, value)).collect::<Result<Vec<_>, _>>()?),
    };
    let text = |i: usize| args.get(i).map(go_text).unwrap_or_default();
    Ok(match function {
        Function::Json => Value::String(args.first().map(Value::to_string).unwrap_or_default()),
        Function::Upper => Value::String(text(0).to_uppercase()),
        Function::Lower => Value::String(text(0).to_lowercase()),
        Function::Println => Value::String(args.iter().map(go_text).collect::<Vec<_>>().join(" ") + "\n"),
        Function::Len => Value::from(match args.first() {
            Some(Value::Array(a)) => a.len(),
            Some(Value::Object(o)) => o.len(),
            Some(Value::String(s)) => s.len(),
            _ => 0,
        }),
        Function::Join => {
            let parts = args.first().and_then(Value::as_array).into_iter().flatten().map(go_text);
            Value::String(parts.collect::<Vec<_>>().join(&text(1)))
        }
        Function::Index => {
            let mut at = args.first().cloned().unwrap_or_default();
            for key in args.get(1..).unwrap_or_default() {
                let next = match (&at, key) {
                    (Value::Array(a), Value::Number(n)) => {
                        n.as_u64().and_then(|n| usize::try_from(n).ok()).and_then(|n| a.get(n)).cloned()
                    }
                    (Value::Object(o), Value::String(k)) => o.get(k).cloned().or(Some(Value::String(String::new()))),
                    _ => None,
                };
                at = next.ok_or_else(|| Error::usage("`index` in a template is out of range"))?;
            }
            at
        }
    })
}

fn render(nodes: &[Node], value: &Value, out: &mut String) -> Result<(), Error> {
    for node in nodes {
        match node {
            Node::Text(t) => out.push_str(t),
            Node::Print(e) => out.push_str(&go_text(&eval(e, value)?)),
            Node::If(e, yes, no) => render(if truth(&eval(e, value)?) { yes } else { no }, value, out)?,
            Node::Range(e, body) => match eval(e, value)? {
                Value::Array(items) => items.iter().try_for_each(|item| render(body, item, out))?,
                Value::Object(map) => map.values().try_for_each(|item| render(body, item, out))?,
                _ => {}
            },
        }
    }
    Ok(())
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

/// A value as Go prints it with `%v`.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Array(a) => format!("[{}]", a.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(o) => {
            let mut entries: Vec<String> = o.iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect();
            entries.sort();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(template: &str) -> String {
        let value = json!({
            "Id": "sha256:ab", "OCIv1": {"config": {"Env": ["A=1", "B=2"], "Labels": {"b": "2", "a": "1"}},
            "rootfs": {"diff_ids": ["x", "y"]}}, "Cmd": null, "Labels": null, "Size": 7
        });
        match Template::parse(template).and_then(|t| t.render(&value)) {
            Ok(text) => text,
            Err(e) => format!("{e} / {}", e.hint().unwrap_or_default()),
        }
    }

    #[test]
    fn what_people_write_works() {
        for (template, want) in [
            ("{{.Id}}\\t{{ .Size }}", "sha256:ab\t7"),
            ("{{.OCIv1.Config.Env}}", "[A=1 B=2]"),
            ("{{index .OCIv1.Config.Env 1}}", "B=2"),
            ("{{json .OCIv1.Config.Labels}}", r#"{"b":"2","a":"1"}"#),
            ("{{.OCIv1.Config.Labels}} {{.Labels}} {{.Cmd}}", "map[a:1 b:2] map[] []"),
            ("{{index .OCIv1.Config.Labels \"a\"}}|{{index .OCIv1.Config.Labels \"z\"}}", "1|"),
            ("{{range .OCIv1.RootFS.DiffIDs}}{{println .}}{{end}}", "x\ny\n"),
            ("{{if .Cmd}}yes{{else}}no{{end}} {{len .Id}}", "no 9"),
            ("{{join .OCIv1.Config.Env \", \"}} {{upper .Id}}", "A=1, B=2 SHA256:AB"),
            ("{{.OCIv1.Config.Nothing}}", "<no value>"),
        ] {
            assert_eq!(shown(template), want, "{template}");
        }
    }

    #[test]
    fn what_does_not_work_is_named() {
        insta::assert_snapshot!(
            ["{{.Nope}}", "{{.Id | lower}}", "{{printf \"%s\" .Id}}", "{{range .Id}}", "{{end}}", "{{", "{{with .Id}}"]
                .map(shown).join("\n"), @r#"
                the template asks for `.Nope`, which does not exist / there are: Id, OCIv1, Cmd, Labels, Size
                `|` in a template is not supported / use fields such as `{{.Id}}`, and `json`, `index`, `len`, `join`, `upper`, `lower`, `println`, `range`, `if`
                `printf` in a template is not supported / use fields such as `{{.Id}}`, and `json`, `index`, `len`, `join`, `upper`, `lower`, `println`, `range`, `if`
                a template block has no `{{end}}` / 
                `{{end}}` without a block / 
                a template action has no closing `}}` / 
                `with` in a template is not supported / use fields such as `{{.Id}}`, and `json`, `index`, `len`, `join`, `upper`, `lower`, `println`, `range`, `if`
                "#);
    }

    #[test]
    fn nesting_is_bounded() {
        assert!(Template::parse(&"{{if .Id}}".repeat(1000)).is_err());
    }
}
