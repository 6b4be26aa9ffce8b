//! Crates for intervals. All are told the tick, and find the numbers of those whose interval has it.

use coitrees::{GenericInterval, IntervalTree};
use rust_lapper::Lapper;
use streamer::cmd::bench::matching::{Contender, Event, Plan, Upkeep, Workload, ends};
use streamer::subscription::Spec;
use superintervals::IntervalMap;

/// Built once.
pub(crate) struct Superintervals {
    map: IntervalMap<u32>,
    out: Vec<u32>,
}

impl Contender for Superintervals {
    const NAME: &'static str = "superintervals";
    const UPKEEP: Upkeep = Upkeep::Static;
    const READS: bool = false;
    type Filter = (i32, i32);

    fn fits(workload: Workload) -> bool {
        workload.is_intervals()
    }

    fn new(_: &Plan) -> Self {
        Self { map: IntervalMap::new(), out: Vec::new() }
    }

    fn compile(&self, spec: &Spec) -> anyhow::Result<(i32, i32)> {
        narrow(spec)
    }

    fn insert(&mut self, number: u32, (start, stop): (i32, i32)) -> anyhow::Result<()> {
        self.map.add(start, stop, number);
        Ok(())
    }

    fn finish(&mut self) {
        self.map.build();
    }

    fn look_up(&mut self, event: &Event) -> anyhow::Result<usize> {
        self.out.clear();
        self.map.search_stabbed(i32::try_from(event.at)?, &mut self.out);
        Ok(self.out.len())
    }
}

/// Built once.
pub(crate) struct CoiTrees {
    pending: Vec<coitrees::Interval<u32>>,
    tree: coitrees::COITree<u32, u32>,
    out: Vec<u32>,
}

impl Contender for CoiTrees {
    const NAME: &'static str = "coitrees";
    const UPKEEP: Upkeep = Upkeep::Static;
    const READS: bool = false;
    type Filter = (i32, i32);

    fn fits(workload: Workload) -> bool {
        workload.is_intervals()
    }

    fn new(_: &Plan) -> Self {
        Self { pending: Vec::new(), tree: IntervalTree::new::<_, coitrees::Interval<u32>>(&[]), out: Vec::new() }
    }

    fn compile(&self, spec: &Spec) -> anyhow::Result<(i32, i32)> {
        narrow(spec)
    }

    fn insert(&mut self, number: u32, (start, stop): (i32, i32)) -> anyhow::Result<()> {
        self.pending.push(coitrees::Interval::new(start, stop, number));
        Ok(())
    }

    fn finish(&mut self) {
        self.tree = IntervalTree::new(&std::mem::take(&mut self.pending));
    }

    fn look_up(&mut self, event: &Event) -> anyhow::Result<usize> {
        let at = i32::try_from(event.at)?;
        let Self { tree, out, .. } = self;
        out.clear();
        // A node has its number or a reference to it, with and without SIMD.
        tree.query(at, at, |node| out.push(*GenericInterval::<u32>::metadata(node)));
        Ok(out.len())
    }
}

/// Takes more at a price; lets none go.
pub(crate) struct RustLapper {
    pending: Vec<rust_lapper::Interval<u64, u32>>,
    lapper: Option<Lapper<u64, u32>>,
    out: Vec<u32>,
}

impl Contender for RustLapper {
    const NAME: &'static str = "rust-lapper";
    const UPKEEP: Upkeep = Upkeep::Inserts;
    const READS: bool = false;
    type Filter = (u64, u64);

    fn fits(workload: Workload) -> bool {
        workload.is_intervals()
    }

    fn new(_: &Plan) -> Self {
        Self { pending: Vec::new(), lapper: None, out: Vec::new() }
    }

    fn compile(&self, spec: &Spec) -> anyhow::Result<(u64, u64)> {
        let (start, stop) = ends(spec)?;
        // Without its last tick.
        Ok((u64::try_from(start)?, u64::try_from(stop)? + 1))
    }

    fn insert(&mut self, number: u32, (start, stop): (u64, u64)) -> anyhow::Result<()> {
        let interval = rust_lapper::Interval { start, stop, val: number };
        match &mut self.lapper {
            Some(lapper) => lapper.insert(interval),
            None => self.pending.push(interval),
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.lapper = Some(Lapper::new(std::mem::take(&mut self.pending)));
    }

    fn look_up(&mut self, event: &Event) -> anyhow::Result<usize> {
        let at = u64::try_from(event.at)?;
        self.out.clear();
        self.out.extend(self.lapper.iter().flat_map(|lapper| lapper.find(at, at + 1)).map(|interval| interval.val));
        Ok(self.out.len())
    }
}

fn narrow(spec: &Spec) -> anyhow::Result<(i32, i32)> {
    let (start, stop) = ends(spec)?;
    Ok((i32::try_from(start)?, i32::try_from(stop)?))
}
