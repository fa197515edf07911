//! A flame graph: stacks as a picture, the outermost function at the bottom, as wide as it was on the processor.
//!
//! One SVG without scripts; whatever stands too narrow to be read is read by pointing at it. The usual generator's licence
//! asks more than this project gives on.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The picture of these stacks, outermost first, with how often each was seen.
pub(super) fn svg(title: &str, stacks: impl Iterator<Item = (Vec<String>, u64)>) -> String {
    let mut root = Node::default();
    for (stack, count) in stacks {
        root.add(&stack, count);
    }
    let depth = root.depth();
    let height = HEAD + depth as f64 * ROW + 8.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n\
         <style>svg{{background:#fbfbfa}}text{{font:12px system-ui,sans-serif;fill:#1c1e21;pointer-events:none}}\
         rect{{stroke:#fbfbfa;stroke-width:.5}}rect:hover{{stroke:#1c1e21}}\
         @media(prefers-color-scheme:dark){{svg{{background:#14171a}}.t{{fill:#e6e8ea}}rect{{stroke:#14171a}}}}</style>\n\
         <text class=\"t\" x=\"8\" y=\"20\">{}: {} samples</text>\n",
        escaped(title),
        root.count
    );
    root.draw("all", 0.0, 0, depth, root.count.max(1), &mut out);
    out + "</svg>\n"
}

#[derive(Default)]
struct Node {
    count: u64,
    below: BTreeMap<String, Node>,
}

impl Node {
    fn add(&mut self, stack: &[String], count: u64) {
        let mut node = self;
        node.count += count;
        for function in stack {
            node = node.below.entry(function.clone()).or_default();
            node.count += count;
        }
    }

    fn depth(&self) -> usize {
        1 + self.below.values().map(Node::depth).max().unwrap_or(0)
    }

    fn draw(&self, name: &str, x: f64, level: usize, depth: usize, total: u64, out: &mut String) {
        let width = self.count as f64 / total as f64 * (WIDTH - 16.0);
        if width < 0.3 {
            return; // Not to be seen.
        }
        let (left, y) = (8.0 + x, HEAD + (depth - 1 - level) as f64 * ROW);
        let share = self.count as f64 / total as f64 * 100.0;
        let hue = 12 + name.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into())) % 40;
        let _ = write!(
            out,
            "<g><title>{} ({} samples, {share:.1} %)</title><rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{:.1}\" fill=\"hsl({hue} 80% 68%)\"/>",
            escaped(name),
            self.count,
            ROW - 1.0
        );
        let room = ((width - 6.0) / 6.4).max(0.0) as usize;
        if room >= 3 {
            let is_cut = name.chars().count() > room;
            let text: String = name.chars().take(if is_cut { room - 1 } else { room }).collect();
            let dots = if is_cut { "…" } else { "" };
            let _ = write!(out, "<text x=\"{:.1}\" y=\"{:.1}\">{}{dots}</text>", left + 3.0, y + 12.5, escaped(&text));
        }
        out.push_str("</g>\n");
        let mut at = x;
        for (function, node) in &self.below {
            node.draw(function, at, level + 1, depth, total, out);
            at += node.count as f64 / total as f64 * (WIDTH - 16.0);
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const WIDTH: f64 = 1200.0;
const ROW: f64 = 17.0;
const HEAD: f64 = 32.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_as_wide_as_it_was_seen_and_stands_on_its_caller() {
        let stack = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        let stacks = [(stack(&["main", "a<T>"]), 3), (stack(&["main", "b"]), 1)];
        let text = svg("t", stacks.into_iter());
        assert!(text.contains("<title>main (4 samples, 100.0 %)</title>"), "{text}");
        assert!(text.contains("<title>a&lt;T&gt; (3 samples, 75.0 %)</title>"), "{text}");
        let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
        assert!(line("main").contains("width=\"1184.0\"") && line("a&lt;T&gt;").contains("width=\"888.0\""), "{text}");
        assert!(line(">b (").contains("x=\"896.0\""), "b stands beside a: {text}");
        assert!(svg("nothing", std::iter::empty()).ends_with("</svg>\n"));
    }
}
