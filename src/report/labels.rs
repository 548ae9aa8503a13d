//! How wide text is, how it breaks, and where labels stand without covering anything.

/// A rectangle, in the chart's pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Rect {
    fn overlap(&self, other: &Self) -> f64 {
        let width = (self.x + self.width).min(other.x + other.width) - self.x.max(other.x);
        let height = (self.y + self.height).min(other.y + other.height) - self.y.max(other.y);
        width.max(0.0) * height.max(0.0)
    }
}

/// About how wide `text` is in a sans-serif font of `size`: the reader's font is not known when the file is written, so a little too wide.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' | '(' | ')' => 0.34,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 0.92,
        'A'..='Z' => 0.70,
        c if super::table::display_width(c.encode_utf8(&mut [0; 4])) == 2 => 1.0,
        _ => 0.58,
    };
    text.chars().map(em).sum::<f64>() * size
}

/// Breaks `text` at spaces into lines no wider than `width`; a longer word (a run's name) is broken too, after a sign where it has one.
pub(super) fn wrap(text: &str, size: f64, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_width(line, size) + text_width(" ", size) + text_width(word, size) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.extend(pieces(word, size, width)),
        }
    }
    lines
}

/// A word in pieces no wider than `width`, each of at least one letter.
fn pieces(word: &str, size: f64, width: f64) -> Vec<String> {
    let (mut done, mut piece) = (Vec::new(), String::new());
    for c in word.chars() {
        piece.push(c);
        if text_width(&piece, size) > width && piece.chars().count() > 1 {
            let letters = piece.len() - c.len_utf8();
            let sign = piece[..letters].rfind(['-', '_', '/', '.', '=']).map_or(letters, |at| at + 1);
            let rest = piece.split_off(sign);
            done.push(std::mem::replace(&mut piece, rest));
        }
    }
    done.push(piece);
    done
}

/// Places a label of `width × height` beside the point `(x, y)`: of eight places around it, the one that covers least of
/// `taken` and stays within `bounds`; the first of equals, which is to the right.
pub(super) fn place(x: f64, y: f64, width: f64, height: f64, taken: &[Rect], bounds: &Rect) -> Rect {
    const GAP: f64 = 9.0;
    let (left, right) = (x - GAP - width, x + GAP);
    let (above, below) = (y - GAP - height, y + GAP);
    let (centre_x, centre_y) = (x - width / 2.0, y - height / 2.0);
    let candidates = [
        (right, centre_y),
        (left, centre_y),
        (centre_x, above),
        (centre_x, below),
        (right - 3.0, above + 3.0),
        (right - 3.0, below - 3.0),
        (left + 3.0, above + 3.0),
        (left + 3.0, below - 3.0),
    ];
    place_among(&candidates.map(|(x, y)| Rect { x, y, width, height }), taken, bounds)
}

/// The one of `candidates` that covers least of `taken` and stays within `bounds`; the first of equals.
pub(super) fn place_among(candidates: &[Rect], taken: &[Rect], bounds: &Rect) -> Rect {
    let cost = |rect: &Rect| {
        let outside = rect.width * rect.height - rect.overlap(bounds);
        taken.iter().map(|t| rect.overlap(t)).sum::<f64>() + 20.0 * outside
    };
    let best = candidates.iter().map(|rect| (cost(rect), *rect)).reduce(|best, next| if next.0 < best.0 - 1e-9 { next } else { best });
    best.map_or(*bounds, |(_, rect)| rect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_lose_no_word() {
        let lines = wrap("forgetting against learning, one point a method and checkpoint", 14.0, 200.0);
        assert!(lines.len() > 1 && lines.iter().all(|l| text_width(l, 14.0) <= 200.0), "{lines:?}");
        assert_eq!(lines.join(" "), "forgetting against learning, one point a method and checkpoint");
        assert_eq!(wrap("a run-of-some-recipe", 14.0, 60.0), ["a", "run-of-", "some-", "recipe"]);
        assert_eq!(wrap("한국어한국어", 14.0, 50.0), ["한국어", "한국어"]);
        assert_eq!(wrap("ab", 14.0, 1.0), ["a", "b"]);
    }

    #[test]
    fn labels_avoid_what_is_taken_and_stay_inside() {
        let bounds = Rect { x: 0.0, y: 0.0, width: 200.0, height: 100.0 };
        assert_eq!(place(50.0, 50.0, 40.0, 12.0, &[], &bounds).x, 59.0);
        let taken = [Rect { x: 55.0, y: 40.0, width: 60.0, height: 20.0 }];
        assert!(place(50.0, 50.0, 40.0, 12.0, &taken, &bounds).x < 50.0);
        let at_the_edge = place(195.0, 50.0, 40.0, 12.0, &[], &bounds);
        assert!(at_the_edge.x + 40.0 <= 200.0);
    }
}
