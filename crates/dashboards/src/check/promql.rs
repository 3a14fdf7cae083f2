//! PromQL: Grafana's variables, and what of a query is looked at.

use promql_parser::{
    label::{MatchOp, Matcher},
    parser::{self, Expr, LabelModifier, VectorSelector},
};

use super::metrics::{Metrics, Type};

/// What Grafana puts in place of the variables of a query.
#[derive(Clone, Debug)]
pub struct Variables {
    /// `$__rate_interval`, as "20s".
    pub rate_interval: String,
    /// `$__range`, as "1h".
    pub range: String,
    /// `$job`: a regular expression.
    pub job: String,
    /// `$instance`: a regular expression.
    pub instance: String,
}

impl Variables {
    /// What the lint puts there: values that nobody would write by hand.
    pub(super) fn marks() -> Self {
        Self {
            rate_interval: "1234567s".into(),
            range: "7654321s".into(),
            job: "chosen-by-reader".into(),
            instance: "chosen-by-reader".into(),
        }
    }

    /// The query as Prometheus gets it.
    pub fn fill(&self, expr: &str) -> String {
        expr.replace("$__rate_interval", &self.rate_interval)
            .replace("$__range", &self.range)
            .replace("$job", &self.job)
            .replace("$instance", &self.instance)
    }
}

/// The parts of an alert's expression that must have data for the alert to be able to fire: what is compared,
/// what is combined, what must be absent. Literals are none.
///
/// # Errors
/// The expression cannot be parsed.
pub fn inputs(expr: &str) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    collect_inputs(&parser::parse(expr)?, &mut found);
    Ok(found)
}

fn collect_inputs(expr: &Expr, found: &mut Vec<String>) {
    match expr {
        Expr::Binary(binary) if binary.op.is_comparison_operator() || binary.op.is_set_operator() => {
            collect_inputs(&binary.lhs, found);
            collect_inputs(&binary.rhs, found);
        }
        Expr::Paren(paren) => collect_inputs(&paren.expr, found),
        Expr::Call(call) if call.func.name == "absent" => {
            call.args.args.iter().for_each(|argument| collect_inputs(argument, found));
        }
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => {}
        other => found.push(other.to_string()),
    }
}

/// What to hold a query against.
pub(super) struct Rules<'a> {
    pub(super) metrics: &'a Metrics,
    /// Of a board: every series is narrowed by job and instance, every range is Grafana's.
    pub(super) board: bool,
}

/// Everything that is wrong with a query.
pub(super) fn problems(expr: &str, rules: &Rules<'_>) -> Vec<String> {
    let marks = Variables::marks();
    let text = if rules.board { marks.fill(expr) } else { expr.to_owned() };
    let mut problems = Vec::new();
    if text.contains('$') {
        problems.push("uses a variable that the board does not have".into());
    }
    match parser::parse(&text) {
        Err(error) => problems.push(format!("is no PromQL: {error}")),
        Ok(parsed) => walk(&parsed, None, rules, &marks, &mut problems),
    }
    problems
}

/// `function`: the innermost one around `expr`.
fn walk(
    expr: &Expr,
    function: Option<&str>,
    rules: &Rules<'_>,
    marks: &Variables,
    problems: &mut Vec<String>,
) {
    match expr {
        Expr::VectorSelector(selector) => check_selector(selector, function, false, rules, marks, problems),
        Expr::MatrixSelector(matrix) => {
            let range = format!("{}s", matrix.range.as_secs());
            if rules.board && range != marks.rate_interval && range != marks.range {
                problems.push(format!("[{range}] is neither $__rate_interval nor $__range"));
            }
            check_selector(&matrix.vs, function, true, rules, marks, problems);
        }
        Expr::Aggregate(aggregate) => {
            if let Some(LabelModifier::Include(labels)) = &aggregate.modifier {
                check_labels(&labels.labels, &aggregate.expr, rules, problems);
            }
            walk(&aggregate.expr, None, rules, marks, problems);
        }
        Expr::Binary(binary) => {
            walk(&binary.lhs, None, rules, marks, problems);
            walk(&binary.rhs, None, rules, marks, problems);
        }
        Expr::Unary(unary) => walk(&unary.expr, None, rules, marks, problems),
        Expr::Paren(paren) => walk(&paren.expr, function, rules, marks, problems),
        Expr::Subquery(subquery) => walk(&subquery.expr, None, rules, marks, problems),
        Expr::Call(call) => {
            for argument in &call.args.args {
                walk(argument, Some(call.func.name), rules, marks, problems);
            }
        }
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

/// Names of the metrics that a selector means.
fn names(selector: &VectorSelector, metrics: &Metrics) -> Vec<String> {
    if let Some(name) = &selector.name {
        return vec![name.clone()];
    }
    let by_name = selector.matchers.matchers.iter().find(|matcher| matcher.name == "__name__");
    match by_name.map(|matcher| &matcher.op) {
        Some(MatchOp::Re(regex)) => {
            metrics.names().filter(|name| regex.is_match(name)).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

fn check_selector(
    selector: &VectorSelector,
    function: Option<&str>,
    matrix: bool,
    rules: &Rules<'_>,
    marks: &Variables,
    problems: &mut Vec<String>,
) {
    let names = names(selector, rules.metrics);
    if names.is_empty() {
        problems.push(format!("{selector} means no metric"));
    }
    for name in &names {
        let Some((metric, type_)) = rules.metrics.series(name) else {
            problems.push(format!("{name} is no metric of ours"));
            continue;
        };
        let rated = matrix && matches!(function, Some("rate" | "irate" | "increase"));
        match type_ {
            Type::Counter if !rated => problems.push(format!("{name} is a counter: use rate or increase")),
            Type::Gauge if rated => problems.push(format!("{name} is a gauge: it has no rate")),
            _ => {}
        }
        for matcher in &selector.matchers.matchers {
            if !metric.has(&matcher.name) {
                problems.push(format!("{name} has no label {}", matcher.name));
            }
        }
    }
    let chosen = |matcher: &&Matcher| matches!(matcher.op, MatchOp::Re(_)) && matcher.value == marks.job;
    for label in ["job", "instance"] {
        if rules.board
            && !selector.matchers.matchers.iter().filter(chosen).any(|matcher| matcher.name == label)
        {
            problems.push(format!("{selector} is not narrowed by {label}=~\"${label}\""));
        }
    }
}

/// Labels of a `by` that no series below it has would make one group of everything.
fn check_labels(labels: &[String], below: &Expr, rules: &Rules<'_>, problems: &mut Vec<String>) {
    let mut selectors = Vec::new();
    collect_selectors(below, &mut selectors);
    let names: Vec<String> = selectors.iter().flat_map(|selector| names(selector, rules.metrics)).collect();
    for label in labels {
        let known = |name: &String| rules.metrics.series(name).is_some_and(|(metric, _)| metric.has(label));
        if !names.iter().any(known) {
            problems.push(format!("nothing below \"by\" has a label {label}"));
        }
    }
}

fn collect_selectors<'a>(expr: &'a Expr, found: &mut Vec<&'a VectorSelector>) {
    match expr {
        Expr::VectorSelector(selector) => found.push(selector),
        Expr::MatrixSelector(matrix) => found.push(&matrix.vs),
        Expr::Aggregate(aggregate) => collect_selectors(&aggregate.expr, found),
        Expr::Binary(binary) => {
            collect_selectors(&binary.lhs, found);
            collect_selectors(&binary.rhs, found);
        }
        Expr::Unary(unary) => collect_selectors(&unary.expr, found),
        Expr::Paren(paren) => collect_selectors(&paren.expr, found),
        Expr::Subquery(subquery) => collect_selectors(&subquery.expr, found),
        Expr::Call(call) => call.args.args.iter().for_each(|argument| collect_selectors(argument, found)),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}
