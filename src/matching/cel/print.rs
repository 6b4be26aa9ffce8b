//! Expressions as text, for people: parentheses where an operator stands within another.

use cel_interpreter::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::pattern;

/// The expression in CEL's notation, loops spelt out.
pub(super) fn text(expression: &IdedExpr) -> String {
    let mut out = String::new();
    write(&mut out, expression, false);
    out
}

fn infix(name: &str) -> Option<&'static str> {
    Some(match name {
        operators::LOGICAL_AND => "&&",
        operators::LOGICAL_OR => "||",
        operators::EQUALS => "==",
        operators::NOT_EQUALS => "!=",
        operators::LESS => "<",
        operators::LESS_EQUALS => "<=",
        operators::GREATER => ">",
        operators::GREATER_EQUALS => ">=",
        operators::ADD => "+",
        operators::SUBSTRACT => "-",
        operators::MULTIPLY => "*",
        operators::DIVIDE => "/",
        operators::MODULO => "%",
        operators::IN => "in",
        _ => return None,
    })
}

fn write(out: &mut String, expression: &IdedExpr, within: bool) {
    match &expression.expr {
        Expr::Unspecified => {}
        Expr::Ident(name) => out.push_str(name),
        Expr::Literal(literal) => write_literal(out, literal),
        Expr::Select(select) => {
            if select.test {
                out.push_str("has(");
            }
            write(out, &select.operand, true);
            out.push('.');
            out.push_str(&select.field);
            if select.test {
                out.push(')');
            }
        }
        Expr::List(list) => write_all(out, "[", &list.elements, "]"),
        Expr::Struct(message) => out.push_str(&message.type_name),
        Expr::Map(map) => {
            out.push('{');
            for (index, entry) in map.entries.iter().enumerate() {
                let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                out.push_str(if index > 0 { ", " } else { "" });
                write(out, &entry.key, false);
                out.push_str(": ");
                write(out, &entry.value, false);
            }
            out.push('}');
        }
        Expr::Comprehension(looped) => {
            out.push_str("loop(");
            write(out, &looped.iter_range, false);
            out.push_str(", ");
            out.push_str(&looped.iter_var);
            for part in [&looped.accu_init, &looped.loop_cond, &looped.loop_step, &looped.result] {
                out.push_str(", ");
                write(out, part, false);
            }
            out.push(')');
        }
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice(), &call.target) {
            (operators::LOGICAL_NOT | operators::NEGATE, [inner], None) => {
                out.push(if call.func_name == operators::NEGATE { '-' } else { '!' });
                write(out, inner, true);
            }
            (operators::INDEX, [container, index], None) => {
                write(out, container, true);
                out.push('[');
                write(out, index, false);
                out.push(']');
            }
            (operators::CONDITIONAL, [condition, yes, no], None) => {
                out.push_str(if within { "(" } else { "" });
                write(out, condition, true);
                out.push_str(" ? ");
                write(out, yes, true);
                out.push_str(" : ");
                write(out, no, true);
                out.push_str(if within { ")" } else { "" });
            }
            // The guards are ours and nobody has written them.
            ("@range" | "@operand", [inner], None) => write(out, inner, within),
            (name, [left, right], None) if infix(name).is_some() => {
                out.push_str(if within { "(" } else { "" });
                write(out, left, true);
                out.push(' ');
                out.push_str(infix(name).unwrap_or_default());
                out.push(' ');
                write(out, right, true);
                out.push_str(if within { ")" } else { "" });
            }
            (name, args, target) => {
                if let Some(target) = target {
                    write(out, target, true);
                    out.push('.');
                }
                out.push_str(if name == pattern::NAME { "matches" } else { name });
                write_all(out, "(", args, ")");
            }
        },
    }
}

fn write_all(out: &mut String, open: &str, items: &[IdedExpr], close: &str) {
    out.push_str(open);
    for (index, item) in items.iter().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        write(out, item, false);
    }
    out.push_str(close);
}

fn write_literal(out: &mut String, literal: &LiteralValue) {
    let text = match literal {
        LiteralValue::Boolean(value) => value.inner().to_string(),
        LiteralValue::Bytes(value) => format!("b\"{}\"", value.inner().escape_ascii()),
        LiteralValue::Double(value) => format!("{:?}", value.inner()),
        LiteralValue::Int(value) => value.inner().to_string(),
        LiteralValue::Null => "null".to_owned(),
        LiteralValue::String(value) => format!("{:?}", value.inner()),
        LiteralValue::UInt(value) => format!("{}u", value.inner()),
    };
    out.push_str(&text);
}
