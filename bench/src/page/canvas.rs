//! A plot as SVG, drawn twice: for a wide screen and for a narrow one, so that letters keep their size on both.
//!
//! Colours are names. What is drawn with plotters has numbers, because that is what it takes; they are put back into names
//! that the page's style gives a value to, one for light and one for dark.

use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::prelude::SVGBackend;
use plotters::style::{Color, IntoFont, RGBColor, ShapeStyle, TextStyle};
use std::fmt::Write;

/// Where a plot is drawn.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Why it could not be.
pub(super) type Trouble = Box<dyn std::error::Error>;

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) width: u32,
    pub(super) height: u32,
}

impl Room {
    /// How many labels an axis may have.
    pub(super) fn x_labels(self) -> usize {
        if self.is_narrow() { 4 } else { 9 }
    }

    /// Whether it is that of a phone.
    pub(super) fn is_narrow(self) -> bool {
        self.width == NARROW
    }
}

/// A colour by its name in the page's style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    /// Letters.
    Text,
    /// Axes.
    Axis,
    /// Lines of the grid.
    Grid,
    /// One of several curves.
    Curve(u8),
    /// How much there is: 0 is least.
    Heat(u8),
    /// What is well.
    Good,
    /// What deserves a look.
    Warn,
    /// What is not.
    Bad,
}

/// How many curves can be told apart.
pub(super) const CURVES: u8 = 8;
/// How many steps of heat can.
pub(super) const HEATS: u8 = 12;

impl Ink {
    fn all() -> impl Iterator<Item = Ink> {
        let fixed = [Ink::Text, Ink::Axis, Ink::Grid, Ink::Good, Ink::Warn, Ink::Bad];
        fixed.into_iter().chain((0..CURVES).map(Ink::Curve)).chain((0..HEATS).map(Ink::Heat))
    }

    /// A number that nobody draws with: it stands for the name until the name is put in.
    fn number(self) -> RGBColor {
        match self {
            Ink::Text => RGBColor(1, 0, 0),
            Ink::Axis => RGBColor(1, 0, 1),
            Ink::Grid => RGBColor(1, 0, 2),
            Ink::Good => RGBColor(1, 0, 3),
            Ink::Warn => RGBColor(1, 0, 4),
            Ink::Bad => RGBColor(1, 0, 5),
            Ink::Curve(at) => RGBColor(1, 1, at % CURVES),
            Ink::Heat(at) => RGBColor(1, 2, at.min(HEATS - 1)),
        }
    }

    /// Its name in the style.
    pub(super) fn name(self) -> String {
        match self {
            Ink::Text => "--text".into(),
            Ink::Axis => "--axis".into(),
            Ink::Grid => "--grid".into(),
            Ink::Good => "--good".into(),
            Ink::Warn => "--warn".into(),
            Ink::Bad => "--bad".into(),
            Ink::Curve(at) => format!("--curve{}", at % CURVES),
            Ink::Heat(at) => format!("--heat{}", at.min(HEATS - 1)),
        }
    }

    /// A line of that colour.
    pub(super) fn line(self, width: u32) -> ShapeStyle {
        self.number().stroke_width(width)
    }

    /// An area of that colour.
    pub(super) fn area(self) -> ShapeStyle {
        self.number().filled()
    }

    /// Letters of that colour.
    pub(super) fn letters(self) -> TextStyle<'static> {
        ("sans-serif", LETTER_HEIGHT).into_font().color(&self.number())
    }
}

/// Draws a plot for both widths. `label` says what it shows to who cannot see it.
pub(super) fn plot(
    label: &str,
    height: u32,
    draw: impl Fn(&Area<'_>, Room) -> Result<(), Trouble>,
) -> Result<String, Trouble> {
    let mut html = String::new();
    for (class, width) in [("wide", WIDE), ("narrow", NARROW)] {
        let room = Room { width, height };
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
            draw(&area, room)?;
            area.present()?;
        }
        for ink in Ink::all() {
            let RGBColor(red, green, blue) = ink.number();
            svg = svg.replace(&format!("\"#{red:02X}{green:02X}{blue:02X}\""), &format!("\"var({})\"", ink.name()));
        }
        // The page says how letters look; what the library says is overruled.
        let svg = svg.replace("font-family=\"sans-serif\"", "");
        let named = format!("<svg role=\"img\" aria-label=\"{}\" ", escape(label));
        write!(html, "<div class=\"{class}\">{}</div>", svg.replacen("<svg ", &named, 1))?;
    }
    Ok(html)
}

/// Text as HTML.
pub(super) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            _ => html.push(letter),
        }
    }
    html
}

const WIDE: u32 = 1080;
const NARROW: u32 = 352;
const LETTER_HEIGHT: u32 = 15;

#[cfg(test)]
mod tests {
    use super::*;
    use plotters::element::{Circle, Text};

    #[test]
    fn a_plot_is_there_for_both_widths_and_its_colours_are_names() {
        let html = plot("a \"dot\"", 100, |area, _| {
            area.draw(&Circle::new((10, 10), 5, Ink::Curve(3).area()))?;
            area.draw(&Text::new("words", (20, 20), Ink::Text.letters()))?;
            Ok(())
        })
        .unwrap();
        assert_eq!(html.matches("<svg role=\"img\" aria-label=\"a &quot;dot&quot;\"").count(), 2);
        assert_eq!(html.matches("var(--curve3)").count(), 2, "{html}");
        assert_eq!(html.matches("var(--text)").count(), 2, "{html}");
        assert!(!html.contains("\"#"), "no colour is a number: {html}");
    }

    #[test]
    fn every_ink_has_a_number_and_a_name_of_its_own() {
        let mut numbers: Vec<_> = Ink::all().map(|ink| (ink.number().0, ink.number().1, ink.number().2)).collect();
        let mut names: Vec<_> = Ink::all().map(Ink::name).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        names.sort_unstable();
        names.dedup();
        assert_eq!((numbers.len(), names.len()), (count, count));
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
