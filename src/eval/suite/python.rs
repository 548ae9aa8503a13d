//! Python's own text functions and random numbers, to the letter: what lm-evaluation-harness' prompts are made with.

/// What `str.isspace` calls white space: Unicode's, and the four ASCII separators.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.rstrip()`.
pub fn rstrip(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `str.capitalize()`: the first character in title case, the rest in lower case.
pub fn capitalize(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    // Lowered as a whole: whether a sigma is final depends on what stands before it.
    let lowered = text.to_lowercase();
    title(first).chars().chain(lowered.chars().skip(first.to_lowercase().count())).collect()
}

/// A character in title case. It is its upper case, but for digraphs, Greek letters with iota subscript, ligatures and Georgian.
fn title(c: char) -> String {
    let alone = match c {
        'Ǆ'..='ǆ' => 'ǅ',
        'Ǉ'..='ǉ' => 'ǈ',
        'Ǌ'..='ǌ' => 'ǋ',
        'Ǳ'..='ǳ' => 'ǲ',
        'ა'..='ჺ' | 'ჽ'..='ჿ' => c,
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => char::from_u32(c as u32 + 8).unwrap_or(c),
        '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}' | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}' => c,
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => char::from_u32(c as u32 + 9).unwrap_or(c),
        _ => {
            return match c {
                'ß' => "Ss".into(),
                'ﬀ' => "Ff".into(),
                'ﬁ' => "Fi".into(),
                'ﬂ' => "Fl".into(),
                'ﬃ' => "Ffi".into(),
                'ﬄ' => "Ffl".into(),
                'ﬅ' | 'ﬆ' => "St".into(),
                'և' => "Եւ".into(),
                'ﬓ' => "Մն".into(),
                'ﬔ' => "Մե".into(),
                'ﬕ' => "Մի".into(),
                'ﬖ' => "Վն".into(),
                'ﬗ' => "Մխ".into(),
                '\u{1fb2}' => "\u{1fba}\u{345}".into(),
                '\u{1fb4}' => "\u{386}\u{345}".into(),
                '\u{1fb7}' => "\u{391}\u{342}\u{345}".into(),
                '\u{1fc2}' => "\u{1fca}\u{345}".into(),
                '\u{1fc4}' => "\u{389}\u{345}".into(),
                '\u{1fc7}' => "\u{397}\u{342}\u{345}".into(),
                '\u{1ff2}' => "\u{1ffa}\u{345}".into(),
                '\u{1ff4}' => "\u{38f}\u{345}".into(),
                '\u{1ff7}' => "\u{3a9}\u{342}\u{345}".into(),
                _ => c.to_uppercase().collect(),
            };
        }
    };
    alone.to_string()
}

/// `re.sub(r"\[.*?\]", "", text)`: what stands in brackets goes, unless a line ends within them.
pub fn without_brackets(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(open) = rest.find('[') {
        let inner = &rest[open + 1..];
        match inner.find([']', '\n']).filter(|&at| inner[at..].starts_with(']')) {
            Some(close) => {
                out.push_str(&rest[..open]);
                rest = &inner[close + 1..];
            }
            None => {
                out.push_str(&rest[..=open]);
                rest = inner;
            }
        }
    }
    out + rest
}

/// `random.Random(seed)`: MT19937, seeded as Python seeds it with a whole number below 2³².
#[derive(Debug, Clone)]
pub struct Random {
    state: [u32; Self::N],
    next: usize,
}

impl Random {
    const N: usize = 624;
    const M: usize = 397;

    /// The generator at the beginning of its stream.
    pub fn new(seed: u32) -> Self {
        let n = Self::N;
        let mut state = [0u32; Self::N];
        state[0] = 19_650_218;
        let mixed = |before: u32, factor: u32| (before ^ (before >> 30)).wrapping_mul(factor);
        for i in 1..n {
            state[i] = mixed(state[i - 1], 1_812_433_253).wrapping_add(i as u32);
        }
        // `init_by_array` of a key of one word.
        let mut i = 1;
        let step = |state: &mut [u32; Self::N], i: &mut usize| {
            *i += 1;
            if *i >= n {
                state[0] = state[n - 1];
                *i = 1;
            }
        };
        for _ in 0..n {
            state[i] = (state[i] ^ mixed(state[i - 1], 1_664_525)).wrapping_add(seed);
            step(&mut state, &mut i);
        }
        for _ in 1..n {
            state[i] = (state[i] ^ mixed(state[i - 1], 1_566_083_941)).wrapping_sub(i as u32);
            step(&mut state, &mut i);
        }
        state[0] = 0x8000_0000;
        Self { state, next: n }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        let n = Self::N;
        if self.next >= n {
            for i in 0..n {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % n] & 0x7fff_ffff);
                let twist = if y & 1 == 0 { 0 } else { 0x9908_b0df };
                self.state[i] = self.state[(i + Self::M) % n] ^ (y >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// A whole number below `n`, which is at least 1.
    fn below(&mut self, n: u32) -> u32 {
        let shift = n.leading_zeros();
        loop {
            let bits = self.next_u32() >> shift;
            if bits < n {
                return bits;
            }
        }
    }

    /// `random.sample(range(population), count)`; `None` where there are not so many.
    pub fn sample(&mut self, population: usize, count: usize) -> Option<Vec<usize>> {
        let n = u32::try_from(population).ok()?;
        if count > population {
            return None;
        }
        // Python copies the population where that is smaller than the set of what was drawn.
        let mut set_size = 21;
        if count > 5 {
            set_size += 4usize.pow(((count * 3) as f64).log(4.0).ceil() as u32);
        }
        if population <= set_size {
            let mut pool: Vec<usize> = (0..population).collect();
            let drawn = (0..count).map(|i| {
                let j = self.below(n - i as u32) as usize;
                let taken = pool[j];
                pool[j] = pool[population - i - 1];
                taken
            });
            return Some(drawn.collect());
        }
        let mut drawn: Vec<usize> = Vec::with_capacity(count);
        while drawn.len() < count {
            let j = self.below(n) as usize;
            if !drawn.contains(&j) {
                drawn.push(j);
            }
        }
        Some(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From CPython: `random.Random(1234)`.
    #[test]
    fn random_numbers_are_python_s() {
        let mut random = Random::new(1234);
        assert_eq!([0; 4].map(|_| random.next_u32()), [4150886329, 3342196574, 1892932127, 501869158]);
        assert_eq!(Random::new(1234).sample(20, 5).unwrap(), [14, 3, 0, 2, 1]);
        let of_arc = Random::new(1234).sample(1119, 25).unwrap();
        assert_eq!(of_arc[..12], [902, 239, 15, 185, 71, 171, 201, 726, 484, 35, 63, 32]);
        assert_eq!(of_arc.len(), 25);
        assert_eq!(Random::new(1234).sample(3, 4), None);
        assert_eq!(Random::new(1234).sample(0, 0).unwrap(), [] as [usize; 0]);
    }

    /// A generator that goes on from item to item, past its first 624 words.
    #[test]
    fn samples_follow_one_another_as_python_s_do() {
        let mut random = Random::new(1234);
        let drawn: Vec<Vec<usize>> = (0..200).map(|_| random.sample(1172, 11).unwrap()).collect();
        assert_eq!(drawn[0], FIRST);
        assert_eq!(drawn[199], LAST);
    }

    const FIRST: [usize; 11] = [902, 239, 15, 185, 71, 171, 201, 726, 484, 35, 63];
    const LAST: [usize; 11] = [223, 864, 443, 209, 440, 69, 636, 859, 358, 639, 735];

    #[test]
    fn capitalizing_title_cases_the_first_character_and_lowers_the_rest() {
        for (text, expected) in [
            ("", ""),
            ("he SAYS Hello", "He says hello"),
            ("ǆungla DŽ", "ǅungla dž"),
            ("ßA", "Ssa"),
            ("ﬁX", "Fix"),
            ("ΌΔΟΣ ΌΔΟΣ", "Όδος όδος"),
            ("Σ", "Σ"),
            ("aΣ", "Aς"),
            ("İX", "İx"),
            ("აბ", "აბ"),
            ("\u{1f80}Α", "\u{1f88}α"),
            ("한국어 ABC", "한국어 abc"),
        ] {
            assert_eq!(capitalize(text), expected, "{text:?}");
        }
    }

    #[test]
    fn white_space_is_python_s() {
        assert_eq!(strip("\u{1f}\u{a0} a b\u{3000}\n"), "a b");
        assert_eq!(strip("\u{200b}a"), "\u{200b}a");
        assert_eq!(rstrip(" a\u{85} "), " a");
    }

    #[test]
    fn brackets_go_with_what_is_in_them() {
        assert_eq!(without_brackets("a [header] b [[c] d] e"), "a  b  d] e");
        assert_eq!(without_brackets("[a\nb] [c]"), "[a\nb] ");
        assert_eq!(without_brackets("[]x["), "x[");
    }
}
