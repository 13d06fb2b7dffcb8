// Package embedded keeps states in a folder of the local disk: a journal of our
// own for commits, pebble for the states behind it. One process per folder. What
// Commit acknowledged is on disk.
//
// # Files
//
//	FORMAT                JSON: store, version, cluster id, shards, hash, checksum
//	FORMAT.new            an unfinished folder; what stands beside it is thrown away
//	LOCK                  taken by the process that has the folder
//	journal/00000042.log  frames of commits and raises, numbered consecutively
//	journal/next.tmp      a journal file that has no name yet
//	journal/spare.tmp     a journal file that was done with and will be the next one
//	states/               pebble v2, format major version FormatValueSeparation
//
// FORMAT makes a folder ours; it gets its name as the last step of the creation.
// Every journal file is written, synced and only then named, so that a named one
// has an intact header.
//
// # Life of a commit
//
// A commit is one frame for all its shards, built in the active tail, one write
// and one fdatasync. Then its records become visible: readers look at the active
// tail, the frozen tail, and pebble, in this order, and take no lock that is held
// during a sync. A tail holds the last value of each key since a checkpoint. When
// the active one has TailBytes of frames it is frozen, together with a copy of the
// rows; the next journal file begins. A goroutine writes the frozen tail into
// pebble in the order of shards and keys, in batches of which the last one has the
// rows and the position (the last sequence number), waits until pebble has flushed
// them, drops the tail, and deletes the journal files before. Pebble's own log is
// off: the journal is the log.
//
// # Journal format
//
// All numbers are little endian. A file header, 88 bytes:
//
//	 0  8  "QUERNJNL"
//	 8  4  version, 1
//	12  4  flags; 1: rewritten by a recovery, replaces every file before it
//	16 16  cluster id
//	32  8  number of the file
//	40  8  sequence number of the first frame
//	48  8  rewritten: the position of the states that the file builds on
//	56  8  salt, random
//	64 16  zero
//	80  8  xxh64 of the bytes before
//
// A frame has 32 bytes of header and its payload:
//
//	 0  4  "QRFM"
//	 4  4  length of the payload
//	 8  8  sequence number, one more than that of the frame before
//	16  4  CRC-32C of the payload
//	20  4  zero
//	24  8  xxh64 of bytes 0 to 24 and the file's salt
//
// A payload is a run of entries: 'B', shard (4), epoch (8), time (8), count (4) and
// the records (uvarint key length, uvarint of twice the value length plus one for a
// delete, key, value); 'R', shard (4), epoch (8), incarnation (16), time (8); 'E',
// the end of the rewritten part of a rewritten file.
//
// The framing is our own and not pebble's record package because of the torn end.
// A bad frame is a torn append only if it is the last one that was ever begun: it
// stands in the last file, and no header of a later frame follows it, since an
// append begins only when the one before was synced. The header has a checksum of
// its own, under a salt that no user's value can know, so that this can be decided
// without the payload. Any other bad frame is ErrCorrupt, with file and offset, and
// the folder does not open. Damage to the last frame alone cannot be told from a
// torn append. Files are filled with zeros ahead of the frames, GrowBytes at a
// time: the syncs of small frames then change no size and no extents, and a disk
// without room is met before a frame is begun. For the same reason a file that is
// not needed any more becomes the next one; its old frames have another salt.
//
// # States of the store
//
//	open ──failed append, sync, rotation, MANIFEST──► broken ──recovered──► open
//	  └──────────────Close──────────► closed ◄──Close──┘
//
// One opening of journal and pebble is a generation. What fails ends it: its fence
// goes up, after which none of its operations can change a file. The batches of
// the append in question are Unclear. While the store is broken, Read, Scan, Raise
// and Commit wait as long as their context allows (Commit then refuses). One
// goroutine opens the next generation, with growing pauses, for as long as that
// fails; so does Open itself:
//
//  1. Open pebble and read rows and position. Have it write and sync a MANIFEST of
//     its own: after a failed sync the old one may be in the page cache only.
//  2. Replay the journal from the position.
//  3. Write rows and tail anew into a rewritten file, sync it, name it, sync the
//     folder. After a failed sync the old file's pages count as clean without
//     being on disk; here they are written from memory again.
//  4. Delete the files before it, and answer again.
//
// Nothing is read between the failure and step 4. An Unclear batch is there as a
// whole or not at all afterwards.
//
// # What fails how
//
//   - Full disk by the reserve (MinFreeBytes): commits are refused with
//     ErrDiskFull before the journal is touched. Raises and reads go on. The free
//     space is read again after 50 ms or 4 MiB, so writes come back by themselves.
//   - The journal cannot grow (ErrGrow), or its next file cannot be begun: refused,
//     nothing broken, tried again.
//   - Write or sync of a frame, naming of a file: Unclear, recovery. A full disk
//     that strikes here keeps the store broken, for reads too, until there is room
//     for the rewritten file; the reserve is there to make this rare.
//   - Pebble's flush or compaction: tried again by pebble, no faster than every
//     50 ms. Commits go on until the active tail is at twice TailBytes, then they
//     are refused with ErrBehind. Below an eighth of the reserve pebble gets no new
//     tables, so that its MANIFEST has room.
//   - Pebble's MANIFEST, markers and folder, whose failure would end the process:
//     the fence goes up first, then pebble is told that all is well. See statesFS.
//   - Pebble finds itself inconsistent (Fatalf): its goroutine ends, the store
//     recovers, and that pebble's memory and goroutines stay behind.
//   - A damaged table: reads that need it fail, others do not. No recovery helps.
//   - A sync that hangs: its Commit hangs, and every later Commit, Raise and Close
//     until its context ends. Reads go on and see nothing of it.
//   - Scan's and Read's callbacks may call the store.
//
// # Bounds
//
// With T for TailBytes (default 32 MiB), F for the largest commit and S for the
// number of shards:
//
//   - A tail is at most 2T+F of frames, and raises up to T more; two tails exist,
//     one of them frozen. Tables take 21 to 43 bytes more per distinct key.
//     By default some 128 MiB at worst, typically 32 to 64.
//   - The journal is at most three such files, one of them spare, and one step of
//     growth; during a recovery, one more.
//   - A recovery reads at most two of these files and writes at most their distinct
//     keys: about a second at the defaults on a disk of 200 MB/s.
//   - A batch takes at most MaxBatchBytes encoded, a frame MaxFrameBytes; larger
//     calls are split into frames.
//   - Pebble: CacheBytes of blocks, memtables of 8 MiB of which a checkpoint fills
//     about 2T/8 MiB, 1,000 open files.
//   - Waiting callers are not bounded here; the runtime has one committer.
package embedded
