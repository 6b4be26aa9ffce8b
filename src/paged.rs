//! A growing table whose growth never copies what is in it: no single insertion takes long.

/// Entries in a page.
const PAGE: usize = 1 << 10;

/// Things by number. Numbers are small, dense and reused.
#[derive(Debug)]
pub(crate) struct Paged<T> {
    pages: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    end: u32,
    len: usize,
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), free: Vec::new(), end: 0, len: 0 }
    }
}

impl<T> Paged<T> {
    /// Puts something where there is room.
    pub(crate) fn insert(&mut self, thing: T) -> u32 {
        let number = self.free.pop().unwrap_or(self.end);
        self.put(number, thing);
        number
    }

    /// Puts something under a number of the caller's choice; what stood there is handed back.
    pub(crate) fn put(&mut self, number: u32, thing: T) -> Option<T> {
        let (page, at) = (number as usize / PAGE, number as usize % PAGE);
        while self.pages.len() <= page {
            self.pages.push(Vec::new());
        }
        self.end = self.end.max(number + 1);
        let page = &mut self.pages[page];
        if page.is_empty() {
            page.reserve_exact(PAGE);
            page.resize_with(PAGE, || None);
        }
        let before = page[at].replace(thing);
        self.len += usize::from(before.is_none());
        before
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// No number is as great as this.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// All of them with their numbers, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let pages = self.pages.iter().enumerate();
        pages.flat_map(|(page, things)| {
            let numbered = things.iter().enumerate();
            numbered.filter_map(move |(at, thing)| Some(((page * PAGE + at) as u32, thing.as_ref()?)))
        })
    }

    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.pages.get(number as usize / PAGE)?.get(number as usize % PAGE)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.pages.get_mut(number as usize / PAGE)?.get_mut(number as usize % PAGE)?.as_mut()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.iter_mut().flatten().flatten()
    }

    /// Takes something out and remembers the room.
    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let thing = self.take(number)?;
        self.free.push(number);
        Some(thing)
    }

    /// Takes something out that was [`Self::put`].
    pub(crate) fn take(&mut self, number: u32) -> Option<T> {
        let thing = self.pages.get_mut(number as usize / PAGE)?.get_mut(number as usize % PAGE)?.take()?;
        self.len -= 1;
        Some(thing)
    }
}

impl<T> std::ops::Index<u32> for Paged<T> {
    type Output = T;

    #[inline]
    fn index(&self, number: u32) -> &T {
        self.get(number).expect("somebody holds this number")
    }
}

impl<T> std::ops::IndexMut<u32> for Paged<T> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut T {
        self.get_mut(number).expect("somebody holds this number")
    }
}
