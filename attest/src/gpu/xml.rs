//! The XML of NVIDIA's manifests, and its canonical form (Canonical XML 1.1, inclusive, without
//! comments).
//!
//! The subset that those files use, and nothing else: elements, attributes in double quotes, text;
//! printable ASCII, tabs and new lines. A declaration, a document type, a comment, a processing
//! instruction, a CDATA section, an entity or character reference, an attribute of the `xml`
//! namespace, or an undeclared prefix is refused. In this subset Canonical XML 1.0 and 1.1 agree.

/// Deepest nesting of elements.
const MAX_DEPTH: usize = 8;
/// Most elements.
const MAX_ELEMENTS: usize = 2048;
/// Most attributes of an element.
const MAX_ATTRIBUTES: usize = 64;

/// What can be wrong with a file of this subset of XML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// A byte that no file of the subset holds.
    #[error("byte {at} is not printable ASCII, or stands for an entity")]
    Character {
        /// Where.
        at: usize,
    },
    /// A declaration, document type, comment, processing instruction or CDATA section.
    #[error("byte {at}: a declaration, comment, instruction or CDATA section")]
    Markup {
        /// Where.
        at: usize,
    },
    /// Not as XML demands.
    #[error("byte {at}: not well-formed")]
    Syntax {
        /// Where.
        at: usize,
    },
    /// Something after the document's element.
    #[error("byte {at}: something follows the document")]
    Trailing {
        /// Where.
        at: usize,
    },
    /// Too deep, or too much.
    #[error("byte {at}: nested too deeply, or too many elements or attributes")]
    TooMuch {
        /// Where.
        at: usize,
    },
    /// A prefix that stands for nothing, is reserved, or is taken away.
    #[error("byte {at}: a namespace prefix that is not declared, or is reserved")]
    Namespace {
        /// Where.
        at: usize,
    },
    /// An attribute or a declaration occurs twice.
    #[error("byte {at}: an attribute occurs twice")]
    Twice {
        /// Where.
        at: usize,
    },
}

/// A prefix, empty for the default, and the namespace that it stands for.
type Binding<'a> = (&'a str, &'a str);

/// An element.
#[derive(Debug)]
pub(super) struct Element<'a> {
    written: &'a str,
    namespace: &'a str,
    local: &'a str,
    declared: Vec<Binding<'a>>,
    attributes: Vec<Attribute<'a>>,
    nodes: Vec<Node<'a>>,
}

/// An attribute that declares no namespace.
#[derive(Debug)]
pub(super) struct Attribute<'a> {
    written: &'a str,
    /// Its namespace; empty if it has no prefix.
    pub(super) namespace: &'a str,
    /// Its name without prefix.
    pub(super) local: &'a str,
    /// Its value.
    pub(super) value: &'a str,
}

/// What an element holds.
#[derive(Debug)]
enum Node<'a> {
    Element(Element<'a>),
    Text(&'a str),
}

/// Reads a document.
pub(super) fn parse(text: &str) -> Result<Element<'_>, XmlError> {
    let known = |byte: u8| matches!(byte, b'\t' | b'\n' | b' '..=b'~') && byte != b'&';
    if let Some(at) = text.bytes().position(|byte| !known(byte)) {
        return Err(XmlError::Character { at });
    }
    let mut parser = Parser {
        text,
        at: 0,
        scope: Vec::new(),
        elements: 0,
    };
    let element = parser.element(0)?;
    parser.space();
    match parser.at == text.len() {
        true => Ok(element),
        false => Err(XmlError::Trailing { at: parser.at }),
    }
}

impl<'a> Element<'a> {
    /// Whether it has this name in this namespace.
    pub(super) fn is(&self, namespace: &str, local: &str) -> bool {
        self.namespace == namespace && self.local == local
    }

    /// Its attributes.
    pub(super) fn attributes(&self) -> &[Attribute<'a>] {
        &self.attributes
    }

    /// The value of an attribute.
    pub(super) fn attribute(&self, namespace: &str, local: &str) -> Option<&'a str> {
        let mut attributes = self.attributes.iter();
        let found = attributes.find(|one| one.namespace == namespace && one.local == local)?;
        Some(found.value)
    }

    /// The elements in it; nothing if there is text between them.
    pub(super) fn elements(&self) -> Option<Vec<&Self>> {
        let mut elements = Vec::new();
        for node in &self.nodes {
            match node {
                Node::Element(element) => elements.push(element),
                Node::Text(text) if text.trim().is_empty() => {}
                Node::Text(_) => return None,
            }
        }
        Some(elements)
    }

    /// The text in it; nothing if there are elements.
    pub(super) fn text(&self) -> Option<&'a str> {
        match self.nodes.as_slice() {
            [Node::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// How many elements of this name it holds, at any depth, and is.
    pub(super) fn count(&self, namespace: &str, local: &str) -> usize {
        let own = usize::from(self.is(namespace, local));
        let inner = self.nodes.iter().map(|node| match node {
            Node::Element(element) => element.count(namespace, local),
            Node::Text(_) => 0,
        });
        own + inner.sum::<usize>()
    }

    /// Its canonical form as the document's element, with the element `without` left out.
    pub(super) fn canonical(&self, without: &Self) -> String {
        let mut out = String::new();
        self.write(&mut Vec::new(), &[], Some(without), &mut out);
        out
    }

    /// Its canonical form as a part of a document, below `ancestors`, outermost first.
    pub(super) fn canonical_below(&self, ancestors: &[&Self]) -> String {
        let mut inherited: Vec<Binding<'a>> = Vec::new();
        for (prefix, namespace) in ancestors.iter().flat_map(|one| &one.declared) {
            inherited.retain(|(other, _)| other != prefix);
            inherited.push((prefix, namespace));
        }
        let mut out = String::new();
        self.write(&mut Vec::new(), &inherited, None, &mut out);
        out
    }

    /// `rendered`: what the elements above have written; `inherited`: what they have not.
    fn write(
        &self,
        rendered: &mut Vec<Binding<'a>>,
        inherited: &[Binding<'a>],
        without: Option<&Self>,
        out: &mut String,
    ) {
        let overridden = |prefix: &str| self.declared.iter().any(|(own, _)| *own == prefix);
        let above = inherited.iter().filter(|(prefix, _)| !overridden(prefix));
        let mut shown: Vec<Binding<'a>> = above.chain(&self.declared).copied().collect();
        shown.retain(|(prefix, namespace)| lookup(rendered, prefix) != Some(*namespace));
        shown.sort_unstable();
        let mut attributes: Vec<_> = self.attributes.iter().collect();
        attributes.sort_by_key(|one| (one.namespace, one.local));
        out.extend(["<", self.written]);
        for (prefix, namespace) in &shown {
            let colon = if prefix.is_empty() { "" } else { ":" };
            out.extend([" xmlns", colon, prefix, "=\"", namespace, "\""]);
        }
        for one in attributes {
            out.extend([" ", one.written, "=\"", one.value, "\""]);
        }
        out.push('>');
        let depth = rendered.len();
        rendered.extend(shown);
        for node in &self.nodes {
            match node {
                Node::Element(element) if without.is_some_and(|one| std::ptr::eq(one, element)) => {
                }
                Node::Element(element) => element.write(rendered, &[], without, out),
                Node::Text(text) => out.push_str(text),
            }
        }
        rendered.truncate(depth);
        out.extend(["</", self.written, ">"]);
    }
}

/// What `prefix` stands for: the innermost binding counts.
fn lookup<'a>(bindings: &[Binding<'a>], prefix: &str) -> Option<&'a str> {
    let mut inwards = bindings.iter().rev();
    inwards
        .find(|(found, _)| *found == prefix)
        .map(|(_, namespace)| *namespace)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    scope: Vec<Binding<'a>>,
    elements: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn syntax(&self) -> XmlError {
        XmlError::Syntax { at: self.at }
    }

    fn eat(&mut self, expected: &str) -> bool {
        let found = self.rest().starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    fn expect(&mut self, expected: &str) -> Result<(), XmlError> {
        match self.eat(expected) {
            true => Ok(()),
            false => Err(self.syntax()),
        }
    }

    /// What stands before the first character that `ends`.
    fn until(&mut self, ends: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = rest.split(ends).next().unwrap_or_default();
        self.at += taken.len();
        taken
    }

    fn space(&mut self) -> bool {
        !self.until(|c| !c.is_ascii_whitespace()).is_empty()
    }

    /// A name of letters, digits, `_`, `-` and `.`, with a prefix or without: prefix, local.
    fn name(&mut self) -> Result<(&'a str, Binding<'a>), XmlError> {
        let at = self.at;
        let inner = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let written = self.until(|c| !inner(c) && c != ':');
        let parts = written.split_once(':').unwrap_or(("", written));
        let sound = |part: &str| part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let (prefix, local) = parts;
        let fits = sound(local) && !local.contains(':') && (prefix.is_empty() || sound(prefix));
        match fits && !written.starts_with(':') {
            true => Ok((written, parts)),
            false => Err(XmlError::Syntax { at }),
        }
    }

    fn namespace(&self, prefix: &str, at: usize) -> Result<&'a str, XmlError> {
        lookup(&self.scope, prefix).ok_or(XmlError::Namespace { at })
    }

    fn element(&mut self, depth: usize) -> Result<Element<'a>, XmlError> {
        let at = self.at;
        self.elements += 1;
        if depth == MAX_DEPTH || self.elements > MAX_ELEMENTS {
            return Err(XmlError::TooMuch { at });
        }
        self.expect("<")?;
        if self.rest().starts_with(['!', '?']) {
            return Err(XmlError::Markup { at });
        }
        let (written, (prefix, local)) = self.name()?;
        let outer = self.scope.len();
        let (declared, plain) = self.attributes()?;
        self.scope.extend(&declared);
        let namespace = self.namespace(prefix, at)?;
        let attributes = self.resolve(plain)?;
        let nodes = match self.eat("/>") {
            true => Vec::new(),
            false => self.content(written, depth)?,
        };
        self.scope.truncate(outer);
        Ok(Element {
            written,
            namespace,
            local,
            declared,
            attributes,
            nodes,
        })
    }

    /// What stands between a start and its end.
    fn content(&mut self, written: &str, depth: usize) -> Result<Vec<Node<'a>>, XmlError> {
        self.expect(">")?;
        let mut nodes = Vec::new();
        loop {
            let text = self.until(|c| c == '<' || c == '>');
            if !text.is_empty() {
                nodes.push(Node::Text(text));
            }
            if self.eat("</") {
                self.expect(written)?;
                self.space();
                self.expect(">")?;
                return Ok(nodes);
            }
            nodes.push(Node::Element(self.element(depth + 1)?));
        }
    }

    /// Declarations of namespaces, and the other attributes with their places.
    #[allow(clippy::type_complexity, reason = "split again at once")]
    fn attributes(
        &mut self,
    ) -> Result<
        (
            Vec<Binding<'a>>,
            Vec<(usize, &'a str, Binding<'a>, &'a str)>,
        ),
        XmlError,
    > {
        let (mut declared, mut plain) = (Vec::<Binding<'a>>::new(), Vec::new());
        loop {
            let spaced = self.space();
            let at = self.at;
            if self.rest().starts_with(['/', '>']) {
                return Ok((declared, plain));
            }
            if declared.len() + plain.len() == MAX_ATTRIBUTES {
                return Err(XmlError::TooMuch { at });
            }
            if !spaced {
                return Err(self.syntax());
            }
            let (written, (prefix, local)) = self.name()?;
            self.expect("=\"")?;
            let value = self.until(|c| "\"<\n\t".contains(c));
            self.expect("\"")?;
            let bound = match (prefix, local) {
                ("", "xmlns") => "",
                ("xmlns", prefix) => prefix,
                _ => {
                    plain.push((at, written, (prefix, local), value));
                    continue;
                }
            };
            if value.is_empty() || bound.starts_with("xml") {
                return Err(XmlError::Namespace { at });
            }
            if declared.iter().any(|(other, _)| *other == bound) {
                return Err(XmlError::Twice { at });
            }
            declared.push((bound, value));
        }
    }

    fn resolve(
        &self,
        plain: Vec<(usize, &'a str, Binding<'a>, &'a str)>,
    ) -> Result<Vec<Attribute<'a>>, XmlError> {
        let mut attributes: Vec<Attribute<'a>> = Vec::with_capacity(plain.len());
        for (at, written, (prefix, local), value) in plain {
            let namespace = match prefix {
                "" => "",
                prefix => self.namespace(prefix, at)?,
            };
            let same = |one: &Attribute<'_>| one.namespace == namespace && one.local == local;
            if attributes.iter().any(same) {
                return Err(XmlError::Twice { at });
            }
            attributes.push(Attribute {
                written,
                namespace,
                local,
                value,
            });
        }
        Ok(attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        let element = parse(text).unwrap();
        let mut out = String::new();
        element.write(&mut Vec::new(), &[], None, &mut out);
        out
    }

    /// Made with another implementation, over the same inputs.
    #[test]
    fn the_canonical_form_is_that_of_the_specification() {
        for (text, expected) in [
            (r#"<a xmlns="u"/>"#, r#"<a xmlns="u"></a>"#),
            (
                "<a  b=\"2\"\n a=\"1\" xmlns:z=\"y\" xmlns=\"u\"\t>\n<z:b/> t </a >\n",
                "<a xmlns=\"u\" xmlns:z=\"y\" a=\"1\" b=\"2\">\n<z:b></z:b> t </a>",
            ),
            // Attributes by namespace, then by name; those without one first.
            (
                r#"<a xmlns="u" xmlns:p="b" xmlns:q="a" p:x="1" q:y="2" z="3"/>"#,
                r#"<a xmlns="u" xmlns:p="b" xmlns:q="a" z="3" q:y="2" p:x="1"></a>"#,
            ),
            // What is in force already is not said again; what changes is.
            (
                r#"<a xmlns="u"><b xmlns="u"><c xmlns="v"><d xmlns="v"/></c></b></a>"#,
                r#"<a xmlns="u"><b><c xmlns="v"><d></d></c></b></a>"#,
            ),
            (
                r#"<a xmlns="u"><b xmlns="v"/><c xmlns="u" xmlns:p="w"/></a>"#,
                r#"<a xmlns="u"><b xmlns="v"></b><c xmlns:p="w"></c></a>"#,
            ),
        ] {
            assert_eq!(canonical(text), expected);
        }
    }

    #[test]
    fn a_part_says_what_is_in_force_and_a_part_can_be_left_out() {
        let text = r#"<a xmlns="u" xmlns:p="v"><p:b xmlns:q="w"><c x="1"/></p:b><d/></a>"#;
        let root = parse(text).unwrap();
        let parts = root.elements().unwrap();
        let inner = parts[0].elements().unwrap();
        assert_eq!(
            inner[0].canonical_below(&[&root, parts[0]]),
            r#"<c xmlns="u" xmlns:p="v" xmlns:q="w" x="1"></c>"#
        );
        assert_eq!(
            root.canonical(parts[0]),
            r#"<a xmlns="u" xmlns:p="v"><d></d></a>"#
        );
        assert_eq!(root.count("u", "c"), 1);
    }

    #[test]
    fn what_is_outside_the_subset_is_refused() {
        let deep = format!("<a xmlns=\"u\">{}", "<a>".repeat(8));
        let many = format!("<a xmlns=\"u\">{}</a>", "<b/>".repeat(2048));
        for (text, expected) in [
            ("<a xmlns=\"u\">&amp;</a>", XmlError::Character { at: 13 }),
            ("<a xmlns=\"u\">\r</a>", XmlError::Character { at: 13 }),
            ("<a xmlns=\"é\"/>", XmlError::Character { at: 10 }),
            ("<?xml version=\"1.0\"?><a/>", XmlError::Markup { at: 0 }),
            ("<!DOCTYPE a><a/>", XmlError::Markup { at: 0 }),
            ("<a xmlns=\"u\"><!-- --></a>", XmlError::Markup { at: 13 }),
            (
                "<a xmlns=\"u\"><![CDATA[x]]></a>",
                XmlError::Markup { at: 13 },
            ),
            ("", XmlError::Syntax { at: 0 }),
            (" <a xmlns=\"u\"/>", XmlError::Syntax { at: 0 }),
            ("<a xmlns=\"u\"></b>", XmlError::Syntax { at: 15 }),
            ("<a xmlns=\"u\"b=\"1\"/>", XmlError::Syntax { at: 12 }),
            ("<a xmlns='u'/>", XmlError::Syntax { at: 8 }),
            ("<a xmlns=\"u\" b=\"\n\"/>", XmlError::Syntax { at: 16 }),
            ("<a xmlns=\"u\">></a>", XmlError::Syntax { at: 13 }),
            ("<a:b:c xmlns:a=\"u\"/>", XmlError::Syntax { at: 1 }),
            ("<a xmlns=\"u\"/><a/>", XmlError::Trailing { at: 14 }),
            (&deep, XmlError::TooMuch { at: 34 }),
            (&many, XmlError::TooMuch { at: 13 + 4 * 2047 }),
            ("<a/>", XmlError::Namespace { at: 0 }),
            ("<a xmlns=\"\"/>", XmlError::Namespace { at: 3 }),
            (
                "<a xmlns=\"u\" xml:space=\"preserve\"/>",
                XmlError::Namespace { at: 13 },
            ),
            (
                "<a xmlns=\"u\" xmlns:xml=\"v\"/>",
                XmlError::Namespace { at: 13 },
            ),
            (
                "<a xmlns=\"u\" b=\"1\" b=\"2\"/>",
                XmlError::Twice { at: 19 },
            ),
            (
                "<a xmlns=\"u\" xmlns:p=\"v\" xmlns:q=\"v\" p:b=\"1\" q:b=\"2\"/>",
                XmlError::Twice { at: 45 },
            ),
            ("<a xmlns=\"u\" xmlns=\"u\"/>", XmlError::Twice { at: 13 }),
        ] {
            assert_eq!(parse(text).map(drop), Err(expected), "{text}");
        }
    }
}
