//! The file under the database: its lock, its creation, and a view that leaves it as it is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use redb::{Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, StorageBackend};

use super::Error;
use super::first_page::{self, FirstPage};

/// What the database may keep of the file in memory, in bytes.
const CACHE_BYTES: usize = 32 << 20;

/// The unit in which a [`View`] keeps what was written.
const BLOCK: usize = 4096;

/// A file that this process has locked against other processes, until it is dropped.
#[derive(Clone, Debug)]
pub(super) struct Locked(Arc<File>);

/// A new file that has another name until it is complete. So a file that is cut off is never one that was not finished.
pub(super) struct Unfinished<'p> {
    pub(super) file: Locked,
    name: PathBuf,
    path: &'p Path,
}

impl Unfinished<'_> {
    /// Gives the file its name, in place of another file.
    pub(super) fn finish(self) -> Result<Locked, Error> {
        self.file.0.sync_all()?;
        fs::rename(&self.name, self.path)?;
        sync_folder(self.path)?;
        Ok(self.file)
    }
}

impl Locked {
    /// Opens and locks the file. `None`: there is none.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened for writing, is in use by another process, or is empty.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Error> {
        let file = Self::any(path)?;
        match &file {
            Some(file) if file.bytes()? == 0 => Err(Error::damaged("it is empty")),
            _ => Ok(file),
        }
    }

    /// As [`Locked::open`], for a file that may be empty.
    pub(super) fn any(path: &Path) -> Result<Option<Self>, Error> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        lock(&file)?;
        Ok(Some(Self(Arc::new(file))))
    }

    /// Creates the file and fills it. `None`: another process has created it meanwhile.
    ///
    /// # Errors
    ///
    /// If the file cannot be created or filled.
    pub(super) fn create<T>(
        path: &Path,
        fill: impl FnOnce(&Self) -> Result<T, Error>,
    ) -> Result<Option<(Self, T)>, Error> {
        // Whoever creates the file holds the lock of its other name. So there is no race behind the question.
        let fill = |file: &Self| if path.exists() { Ok(None) } else { fill(file).map(Some) };
        let (unfinished, filled) = Self::begin(path, fill)?;
        match filled {
            Some(filled) => Ok(Some((unfinished.finish()?, filled))),
            None => {
                fs::remove_file(unfinished.name)?;
                Ok(None)
            }
        }
    }

    /// Begins a new file under another name, and fills it.
    ///
    /// # Errors
    ///
    /// If the file cannot be created or filled, or another process does the same.
    pub(super) fn begin<T>(
        path: &Path,
        fill: impl FnOnce(&Self) -> Result<T, Error>,
    ) -> Result<(Unfinished<'_>, T), Error> {
        let name = beside(path, "new");
        let mut options = OpenOptions::new();
        // It holds what clients need a permission to read.
        options.mode(0o600);
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&name)?;
        lock(&file)?;
        let file = Self(Arc::new(file));
        if !file.is_at(&name) {
            return Err(Error::InUse);
        }
        file.0.set_len(0)?;
        let filled = fill(&file)?;
        Ok((Unfinished { file, name, path }, filled))
    }

    /// The database in the file.
    pub(super) fn database(&self) -> Result<Database, Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        Ok(builder.create_with_backend(Direct(self.clone()))?)
    }

    /// The database in the file, without a change of the file: what is written to it is kept in memory. It is opened only if
    /// the checksum of every page is right.
    pub(super) fn view(&self) -> Result<Database, Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        Ok(builder.create_with_backend(View::new(self.clone())?)?)
    }

    /// The database in the file, of which pages may be damaged, with this first page instead of its own if one is given. As of
    /// a commit that did not close the file it is opened only if it can be repaired as a whole.
    pub(super) fn unchecked_view(&self, first_page: Option<&FirstPage>) -> Result<Box<dyn Reading>, Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let view = || {
            let view = View::new(self.clone())?;
            if let Some(first_page) = first_page {
                view.set_len(first_page.file_bytes)?;
                view.write(0, &first_page.bytes)?;
            }
            Ok::<_, Error>(view)
        };
        match builder.open_read_only_with_backend(view()?) {
            Ok(database) => Ok(Box::new(database)),
            Err(DatabaseError::RepairAborted) => Ok(Box::new(builder.create_with_backend(view()?)?)),
            Err(error) => Err(error.into()),
        }
    }

    /// First pages made anew, the one with the newest commit first.
    pub(super) fn first_pages(&self) -> Result<Vec<FirstPage>, Error> {
        let mut found = [0; first_page::BYTES];
        let view = View::new(self.clone())?;
        view.read_file(view.written.lock().seen, 0, &mut found)?;
        Ok(first_page::made_anew(&found, self.bytes()?))
    }

    /// Whether this is the file under that path. It is not after somebody has removed or replaced it.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let id = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        matches!((self.0.metadata(), fs::metadata(path)), (Ok(own), Ok(there)) if id(&own) == id(&there))
    }

    /// The size of the file, in bytes.
    pub(super) fn bytes(&self) -> Result<u64, Error> {
        Ok(self.0.metadata()?.len())
    }
}

/// A database that can be read.
pub(super) trait Reading {
    fn begin_read(&self) -> Result<ReadTransaction, Error>;
}

impl Reading for Database {
    fn begin_read(&self) -> Result<ReadTransaction, Error> {
        Ok(redb::ReadableDatabase::begin_read(self)?)
    }
}

impl Reading for ReadOnlyDatabase {
    fn begin_read(&self) -> Result<ReadTransaction, Error> {
        Ok(redb::ReadableDatabase::begin_read(self)?)
    }
}

/// Makes the names in the folder of a path durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok(File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?)
}

/// The path with a dot and a suffix behind it.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn lock(file: &File) -> Result<(), Error> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Error::InUse,
        TryLockError::Error(error) => error.into(),
    })
}

/// Reads and writes the file.
#[derive(Debug)]
struct Direct(Locked);

impl StorageBackend for Direct {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.0.write_all_at(data, offset)
    }
}

/// Reads the file, and keeps in memory what is written.
#[derive(Debug)]
struct View {
    file: Locked,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    // Up to where the file's bytes are still seen. Behind a place where the storage was cut off, they are not.
    seen: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl View {
    fn new(file: Locked) -> Result<Self, Error> {
        let len = file.bytes()?;
        let blocks = BTreeMap::new();
        let written = Mutex::new(Written { len, seen: len, blocks });
        Ok(Self { file, written })
    }

    /// Fills `out` with the file's bytes from `offset` on, and with zeros where they are not seen.
    fn read_file(&self, seen: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let rest = usize::try_from(seen.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (there, beyond) = out.split_at_mut(rest.min(out.len()));
        beyond.fill(0);
        self.file.0.read_exact_at(there, offset)
    }

    /// A block that can be written to.
    fn block<'w>(&self, written: &'w mut Written, block: u64) -> io::Result<&'w mut [u8]> {
        Ok(match written.blocks.entry(block) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let mut bytes = vec![0; BLOCK].into_boxed_slice();
                self.read_file(written.seen, block * BLOCK as u64, &mut bytes)?;
                entry.insert(bytes)
            }
        })
    }
}

/// Splits `bytes` at `offset` into parts that lie in one block each: number, start within the block, range in `bytes`.
fn parts(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let start = usize::try_from(at % BLOCK as u64).unwrap_or(0);
        let range = done..bytes.min(done + BLOCK - start);
        done = range.end;
        (!range.is_empty()).then_some((at / BLOCK as u64, start, range))
    })
}

impl StorageBackend for View {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written.lock();
        if offset.saturating_add(out.len() as u64) > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if written.blocks.is_empty() {
            return self.read_file(written.seen, offset, out);
        }
        for (block, start, range) in parts(offset, out.len()) {
            let part = &mut out[range];
            match written.blocks.get(&block) {
                Some(bytes) => part.copy_from_slice(&bytes[start..start + part.len()]),
                None => self.read_file(written.seen, block * BLOCK as u64 + start as u64, part)?,
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written.lock();
        if len < written.len {
            // What is cut off reads as zeros if the storage grows again.
            written.seen = written.seen.min(len);
            let _ = written.blocks.split_off(&len.div_ceil(BLOCK as u64));
            let start = usize::try_from(len % BLOCK as u64).unwrap_or(0);
            if let Some(last) = written.blocks.get_mut(&(len / BLOCK as u64)) {
                last[start..].fill(0);
            }
        }
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock();
        for (block, start, range) in parts(offset, data.len()) {
            let part = &data[range];
            self.block(&mut written, block)?[start..start + part.len()].copy_from_slice(part);
        }
        written.len = written.len.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let offset = 0u64..5 * BLOCK as u64;
        prop_oneof![
            3 => (offset.clone(), prop::collection::vec(1u8.., 1..2 * BLOCK)).prop_map(|(at, data)| Step::Write(at, data)),
            1 => offset.prop_map(Step::SetLen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        // The model is a vector.
        #[test]
        fn a_view_reads_what_was_written_and_leaves_the_file_as_it_is(len in 1usize..3 * BLOCK, steps in prop::collection::vec(step(), 0..12)) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("file");
            let before: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            fs::write(&path, &before).expect("written");
            let view = View::new(Locked::open(&path).expect("opened").expect("there")).expect("a view");
            let mut model = before.clone();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let end = at as usize + data.len();
                        model.resize(model.len().max(end), 0);
                        model[at as usize..end].copy_from_slice(&data);
                        view.write(at, &data).expect("written");
                    }
                    Step::SetLen(len) => {
                        model.resize(len as usize, 0);
                        view.set_len(len).expect("set");
                    }
                }
                let mut read = vec![0; model.len()];
                view.read(0, &mut read).expect("read");
                prop_assert!(read == model);
                prop_assert!(view.read(1, &mut read).is_err() || read.is_empty());
            }
            prop_assert!(fs::read(&path).expect("read") == before);
        }
    }
}
