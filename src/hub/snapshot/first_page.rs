//! The first page of a damaged file, made anew.
//!
//! The database's first 64 bytes follow from the size of the file and from the way in which this version makes files. Only
//! one bit does not: which of the two commit records behind them is the newest. Each record has a checksum and the number of
//! its transaction, so that is found as well. Without a record nothing says where the tables are.

use xxhash_rust::xxh3::xxh3_128;

const MAGIC: &[u8; 9] = b"redb\x1A\x0A\xA9\x0D\x0A";
const PAGE_BYTES: u64 = 4096;
/// The pages of a region. The regions of a file have no headers.
const REGION_PAGES: u64 = 1 << 20;
/// Says that the last commit closed the file, beside the bit with the number of its record.
const CLOSED: u8 = 4;
/// The version of the file format, which is the first byte of a record.
const FORMAT: u8 = 3;

const RECORD_BYTES: usize = 128;
/// Where the commit records begin.
const RECORDS: [usize; 2] = [64, 64 + RECORD_BYTES];
/// Where a record has the number of its transaction, and its checksum over what is before.
const TRANSACTION: usize = 104;
const CHECKSUM: usize = 112;

/// The bytes that this module makes.
pub(super) const BYTES: usize = 64 + 2 * RECORD_BYTES;

/// The beginning of a file, with one of its commit records in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FirstPage {
    pub(super) bytes: [u8; BYTES],
    /// The part of the file that consists of whole pages.
    pub(super) file_bytes: u64,
    /// Whether a later commit than this record's may be lost.
    pub(super) may_be_earlier: bool,
}

/// Makes the beginning of a file of this size for each commit record that is whole, the newest first. `found` is what the
/// file begins with.
pub(super) fn made_anew(found: &[u8; BYTES], file_bytes: u64) -> Vec<FirstPage> {
    let pages = file_bytes / PAGE_BYTES;
    // The first page is in no region.
    let Some(data_pages) = pages.checked_sub(1).filter(|pages| *pages > 0) else {
        return Vec::new();
    };
    let (regions, rest) = (data_pages / REGION_PAGES, data_pages % REGION_PAGES);
    let mut whole: Vec<_> = (0..RECORDS.len())
        .filter_map(|number| Some((transaction(&found[RECORDS[number]..])?, number)))
        .collect();
    whole.sort_unstable_by(|one, other| other.cmp(one));
    let are_both_whole = whole.len() == RECORDS.len();
    let pages = whole.iter().enumerate().map(|(age, (_, number))| {
        let mut bytes = *found;
        bytes[..RECORDS[0]].fill(0);
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes[MAGIC.len()] = CLOSED | u8::from(*number == 1);
        let numbers = [PAGE_BYTES, 0, REGION_PAGES, regions, rest];
        for (place, number) in bytes[12..].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
        for record in RECORDS {
            // A record in an unknown format would hide the other one.
            bytes[record] = FORMAT;
        }
        FirstPage {
            bytes,
            file_bytes: file_bytes / PAGE_BYTES * PAGE_BYTES,
            may_be_earlier: age > 0 || !are_both_whole,
        }
    });
    pages.collect()
}

/// The number of a record's transaction; `None`: the record differs from its checksum.
fn transaction(record: &[u8]) -> Option<u64> {
    let checksum = u128::from_le_bytes(record.get(CHECKSUM..RECORD_BYTES)?.try_into().ok()?);
    let number = u64::from_le_bytes(record.get(TRANSACTION..CHECKSUM)?.try_into().ok()?);
    (xxh3_128(&record[..CHECKSUM]) == checksum).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::{Database, TableDefinition};

    /// The first bytes of a database file with two commits, and its size.
    fn file() -> ([u8; BYTES], u64) {
        const TABLE: TableDefinition<'_, u64, u64> = TableDefinition::new("table");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let database = Database::create(&path).expect("created");
        for n in 0..2 {
            let transaction = database.begin_write().expect("begun");
            let mut table = transaction.open_table(TABLE).expect("opened");
            table.insert(n, n).expect("inserted");
            drop(table);
            transaction.commit().expect("written");
        }
        drop(database);
        let bytes = std::fs::read(&path).expect("read");
        (bytes[..BYTES].try_into().expect("longer"), bytes.len() as u64)
    }

    #[test]
    fn the_first_page_of_a_whole_file_is_made_as_the_database_makes_it() {
        let (found, file_bytes) = file();
        let made = made_anew(&found, file_bytes);
        assert_eq!(made[0].bytes, found);
        assert_eq!((made.len(), made[0].file_bytes), (2, file_bytes));
        assert!(!made[0].may_be_earlier && made[1].may_be_earlier);
    }

    #[test]
    fn what_is_lost_is_made_from_what_is_left() {
        let (found, file_bytes) = file();
        let newest = usize::from(found[MAGIC.len()] & 1);
        let mut damaged = found;
        damaged[..64].fill(0xAB);
        // The format of the older record is not one that is known.
        damaged[RECORDS[1 - newest]] = 9;
        let made = made_anew(&damaged, file_bytes + 7);
        assert_eq!((made.len(), made[0].file_bytes), (1, file_bytes));
        assert!(made[0].may_be_earlier && made[0].bytes[..64] == found[..64]);
        let mut damaged = found;
        damaged[RECORDS[newest] + 20] ^= 1;
        let made = made_anew(&damaged, file_bytes);
        assert_eq!(
            (made.len(), made[0].bytes[MAGIC.len()]),
            (1, CLOSED | u8::from(newest == 0))
        );
        damaged[RECORDS[1 - newest] + 20] ^= 1;
        assert_eq!(made_anew(&damaged, file_bytes), []);
        assert_eq!(made_anew(&found, 4096), []);
    }
}
