//! A growing table whose growth never copies what is in it: no single insertion takes long.

/// Entries in a page.
const PAGE: usize = 1 << 10;

/// Things by number. Numbers are small, dense and reused.
#[derive(Debug)]
pub(super) struct Paged<T> {
    pages: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    end: u32,
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), free: Vec::new(), end: 0 }
    }
}

impl<T> Paged<T> {
    /// Puts something where there is room.
    pub(super) fn insert(&mut self, thing: T) -> u32 {
        let number = self.free.pop().unwrap_or(self.end);
        self.put(number, thing);
        number
    }

    /// Puts something under a number of the caller's choice; what stood there is handed back.
    pub(super) fn put(&mut self, number: u32, thing: T) -> Option<T> {
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
        page[at].replace(thing)
    }

    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.pages.get(number as usize / PAGE)?.get(number as usize % PAGE)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.pages.get_mut(number as usize / PAGE)?.get_mut(number as usize % PAGE)?.as_mut()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.iter_mut().flatten().flatten()
    }

    /// Takes something out and remembers the room.
    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let thing = self.take(number)?;
        self.free.push(number);
        Some(thing)
    }

    /// Takes something out that was [`Self::put`].
    pub(super) fn take(&mut self, number: u32) -> Option<T> {
        self.pages.get_mut(number as usize / PAGE)?.get_mut(number as usize % PAGE)?.take()
    }
}
