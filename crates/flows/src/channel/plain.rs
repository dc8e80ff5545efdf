//! Markdown as plain text, for channels that would show its marks.
//!
//! What is said stays, and so do addresses and list marks; what only asks for a look goes. Marks this does not read,
//! such as `~~`, stay as they are: "~~20~~ 15" without them would say something else.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// Lists within lists that are indented further. Two thousand of them fit into a small reply, and its indentation would
/// fill megabytes.
const INDENTS_MAX: usize = 8;

/// Turns markdown into plain text: paragraphs with a blank line between them, lists as `- item` and `1. item` lines,
/// links as `text (url)`.
pub(super) fn plain(markdown: &str) -> String {
    let mut plain = Plain::default();
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        plain.take(event);
    }
    plain.out.trim().to_owned()
}

/// A list that is being written.
struct List {
    /// The next item's number, if it has numbers.
    number: Option<u64>,
    /// The width of the latest mark: what belongs to an item stands below its text.
    indent: usize,
}

#[derive(Default)]
struct Plain {
    out: String,
    /// The lists around this place, the outermost first.
    lists: Vec<List>,
    /// The links and pictures around this place: their address, and where their text begins.
    links: Vec<(String, usize)>,
    /// A block began or ended, so the next text begins one.
    broken: bool,
    /// An item's mark has just been written, so the next text follows it on its line.
    marked: bool,
    /// Cells of this row so far.
    cells: usize,
}

impl Plain {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) | Event::Code(text) => self.push(&text),
            Event::Html(text) | Event::InlineHtml(text) => match text.trim() {
                "<br>" | "<br/>" | "<br />" => self.push("\n"),
                // Far more often a placeholder such as "<your name>" than markup.
                _ => self.push(&text),
            },
            // People write a line break and mean one.
            Event::SoftBreak | Event::HardBreak => self.push("\n"),
            Event::Rule => self.broken = true,
            // The others belong to extensions that are not asked for; their text is kept.
            Event::InlineMath(text) | Event::DisplayMath(text) | Event::FootnoteReference(text) => self.push(&text),
            Event::TaskListMarker(_) => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::List(number) => {
                self.broken = true;
                self.lists.push(List { number, indent: 0 });
            }
            Tag::Item => self.item(),
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => {
                self.begin();
                self.links.push((dest_url.to_string(), self.out.len()));
            }
            Tag::TableHead => {
                self.begin();
                self.cells = 0;
            }
            Tag::TableRow => {
                self.push("\n");
                self.cells = 0;
            }
            Tag::TableCell => {
                if self.cells > 0 {
                    self.push(" | ");
                }
                self.cells += 1;
            }
            Tag::Emphasis | Tag::Strong | Tag::Strikethrough | Tag::Superscript | Tag::Subscript => {}
            _ => self.broken = true,
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Link | TagEnd::Image => self.link(),
            TagEnd::List(_) => {
                self.lists.pop();
                self.broken = true;
            }
            TagEnd::TableHead | TagEnd::TableRow | TagEnd::TableCell => {}
            TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough | TagEnd::Superscript | TagEnd::Subscript => {}
            _ => self.broken = true,
        }
    }

    /// Begins an item's line. A list stands apart from what is above it; its items stand together.
    fn item(&mut self) {
        let outer = self.indent_of(self.lists.len().saturating_sub(1));
        let depth = self.lists.len();
        let Some(list) = self.lists.last_mut() else { return };
        let first = list.indent == 0;
        let mark = match &mut list.number {
            Some(number) => {
                let mark = format!("{number}. ");
                *number += 1;
                mark
            }
            None => "- ".to_owned(),
        };
        list.indent = mark.len();
        self.line(if first && depth == 1 { "\n\n" } else { "\n" }, outer);
        self.out.push_str(&mark);
        (self.broken, self.marked) = (false, true);
    }

    /// Writes the address behind a link's text, unless the text is the address.
    fn link(&mut self) {
        let Some((url, from)) = self.links.pop() else { return };
        let url = url.strip_prefix("mailto:").or(url.strip_prefix("tel:")).unwrap_or(&url);
        let said = self.out.get(from..).unwrap_or_default().trim();
        if said.is_empty() {
            self.push(url);
        } else if said != url && !url.is_empty() {
            self.push(&format!(" ({url})"));
        }
    }

    /// Writes text; its further lines stand below the first.
    fn push(&mut self, text: &str) {
        self.begin();
        let indent = format!("\n{}", " ".repeat(self.indent_of(self.lists.len())));
        self.out.push_str(&text.replace('\n', &indent));
    }

    /// Begins a block if one is due.
    fn begin(&mut self) {
        if self.broken && !self.marked {
            let indent = self.indent_of(self.lists.len());
            self.line(if self.lists.is_empty() { "\n\n" } else { "\n" }, indent);
        }
        (self.broken, self.marked) = (false, false);
    }

    fn line(&mut self, breaks: &str, indent: usize) {
        self.out.truncate(self.out.trim_end().len());
        if !self.out.is_empty() {
            self.out.push_str(breaks);
        }
        self.out.push_str(&" ".repeat(indent));
    }

    fn indent_of(&self, depth: usize) -> usize {
        self.lists.iter().take(depth.min(INDENTS_MAX)).map(|list| list.indent).sum()
    }
}
