namespace Wayleave.Scenarios.Conformance;

/// <summary>
/// The cases of docs/cases.md about what a process can do with a buffer and its fences, put to a backend step by step.
/// The lab puts them to a real kernel and records its answers; ours are held against those.
/// </summary>
/// <param name="backend">Who is asked.</param>
/// <param name="step">
/// Takes each answer: the case, what was done, what came of it. No two steps have the same text.
/// </param>
public sealed class BufferConformance(IBufferBackend backend, Action<string, string, string> step)
{
    private const int Size = 65536;
    private const ulong Read = 1;
    private const ulong Write = 2;
    private const ulong End = 4;

    private static readonly (string Name, ulong Flags)[] s_directions =
        [("READ", Read), ("WRITE", Write), ("READ|WRITE", Read | Write)];

    /// <summary>Everything, always in the same order.</summary>
    public void Run()
    {
        FileRules();
        ReadinessRules();
        SnapshotRules();
        ImportRules();
        MergeRules();
    }

    private void FileRules()
    {
        using IBufferUnderTest buffer = backend.Create(Size);
        step("DBUF-28", "lseek SEEK_END 0", buffer.Seek(0, 2));
        step("DBUF-28", "lseek SEEK_SET 0", buffer.Seek(0, 0));
        step("DBUF-28", "lseek SEEK_CUR 0", buffer.Seek(0, 1));
        step("DBUF-28", "lseek SEEK_SET 1", buffer.Seek(1, 0));
        step("DBUF-28", "lseek SEEK_END 1", buffer.Seek(1, 2));
        step("DBUF-29", "SYNC 0", buffer.Sync(0));
        step("DBUF-29", "SYNC 8", buffer.Sync(8));
        step("DBUF-29", "SYNC END", buffer.Sync(End));
        foreach ((string name, ulong flags) in s_directions)
        {
            step("DBUF-29", $"SYNC START {name}", buffer.Sync(flags));
            step("DBUF-29", $"SYNC END {name}", buffer.Sync(flags | End));
        }

        string longest = new('a', 31);
        step("DBUF-32", "SET_NAME of 31 characters", buffer.SetName(longest));
        step("DBUF-32", "the name is the new one", Yes(buffer.Name == longest));
        step("DBUF-32", "SET_NAME of 32 characters", buffer.SetName(longest + "b"));
        step("DBUF-32", "the name is still that of 31", Yes(buffer.Name == longest));
        step("DBUF-33", "poll for nothing", buffer.Poll(isForIn: false, isForOut: false));
        step("DBUF-33", "poll for IN", buffer.Poll(isForOut: false));
        step("DBUF-33", "poll for OUT", buffer.Poll(isForIn: false));
        step("DBUF-42", "EXPORT flags 0", Export(buffer, 0));
        step("DBUF-42", "EXPORT flags 4", Export(buffer, End));
        (ISyncFileUnderTest file, IPendingWork work) = backend.Pending();
        using (file)
        {
            step("DBUF-42", "IMPORT flags 0", buffer.Import(0, file));
            step("DBUF-42", "IMPORT flags 4", buffer.Import(End, file));
        }

        work.Signal();
        step("DBUF-42", "IMPORT of what is no sync_file", buffer.Import(Write, null));
    }

    private void ReadinessRules()
    {
        using IBufferUnderTest buffer = backend.Create(Size);
        step("DBUF-33", "poll of an idle buffer", buffer.Poll());
        IPendingWork reader = backend.Attach(buffer, isWriter: false);
        step("DBUF-33", "poll under a READ fence", buffer.Poll());
        step("DBUF-30", "SYNC START READ under a READ fence", buffer.Sync(Read));
        step("DBUF-30", "SYNC START WRITE under a READ fence", buffer.SyncWhile(Write, reader.Signal));
        step("DBUF-33", "poll after the READ fence", buffer.Poll());
        IPendingWork writer = backend.Attach(buffer, isWriter: true);
        step("DBUF-33", "poll under a WRITE fence", buffer.Poll());
        step("DBUF-52", "SYNC START READ under a WRITE fence", buffer.SyncWhile(Read, writer.Signal));
        step("DBUF-33", "poll after the WRITE fence", buffer.Poll());
        IPendingWork last = backend.Attach(buffer, isWriter: true);
        IReadOnlyList<string> woken = buffer.PollWhile(pollers: 2, last.Signal);
        step("DBUF-36", "poll IN of the first of two pollers", woken[0]);
        step("DBUF-36", "poll IN of the second", woken[1]);
    }

    private void SnapshotRules()
    {
        using IBufferUnderTest buffer = backend.Create(Size);
        using (ISyncFileUnderTest idle = Exported(buffer, Read | Write))
        {
            step("DBUF-38", "EXPORT of an idle buffer", idle.Status());
        }

        IPendingWork reader = backend.Attach(buffer, isWriter: false);
        using (ISyncFileUnderTest forReader = Exported(buffer, Read), forWriter = Exported(buffer, Write))
        {
            step("DBUF-38", "EXPORT READ under a READ fence", forReader.Status());
            step("DBUF-38", "EXPORT WRITE under a READ fence", forWriter.Status());
            reader.Signal();
            step("DBUF-38", "the file of READ after the signal", forReader.Status());
            step("DBUF-38", "the file of WRITE after the signal", forWriter.Status());
        }

        IPendingWork first = backend.Attach(buffer, isWriter: false), second = backend.Attach(buffer, isWriter: false);
        using ISyncFileUnderTest both = Exported(buffer, Write);
        IPendingWork third = backend.Attach(buffer, isWriter: false);
        first.Signal();
        step("DBUF-39", "the exported file when the first of two signalled", both.Status());
        second.Signal();
        step("DBUF-39", "the exported file when both signalled and a later one is pending", both.Status());
        step("DBUF-39", "poll of the buffer then", buffer.Poll());
        third.Signal();
    }

    private void ImportRules()
    {
        using IBufferUnderTest buffer = backend.Create(Size);
        (ISyncFileUnderTest file, IPendingWork work) = backend.Pending();
        using (file)
        {
            step("DBUF-40", "IMPORT READ of a pending fence", buffer.Import(Read, file));
            step("DBUF-40", "poll after the READ import", buffer.Poll());
            step("DBUF-40", "IMPORT WRITE of it", buffer.Import(Write, file));
            step("DBUF-40", "poll after the WRITE import", buffer.Poll());
            work.Signal();
            step("DBUF-40", "poll after the signal", buffer.Poll());
            step("DBUF-40", "IMPORT WRITE of a signalled fence", buffer.Import(Write, file));
            step("DBUF-40", "poll after the import of a signalled fence", buffer.Poll());
        }

        ManyReaders(buffer, withWriter: false);
        ManyReaders(buffer, withWriter: true);

        (ISyncFileUnderTest File, IPendingWork Work)[] three =
            [backend.Pending(), backend.Pending(), backend.Pending()];
        using (ISyncFileUnderTest two = Merged(three[0].File, three[1].File))
        using (ISyncFileUnderTest all = Merged(two, three[2].File))
        {
            step("DBUF-43", "a file of three fences", all.Status());
            step("DBUF-43", "IMPORT WRITE of it", buffer.Import(Write, all));
            three[1].Work.Signal();
            using (ISyncFileUnderTest left = Exported(buffer, Read | Write))
            {
                step("DBUF-43", "EXPORT when one of them signalled", left.Status());
            }

            three[0].Work.Signal();
            step("DBUF-35", "poll when two of three WRITE fences signalled", buffer.Poll());
            step("DBUF-35", "poll IN, the third pending", buffer.PollWhile(pollers: 1, three[2].Work.Signal)[0]);
        }

        foreach ((ISyncFileUnderTest one, _) in three)
        {
            one.Dispose();
        }
    }

    // 32 fences of 32 timelines, imported as readers; how many have to signal until a writer may go on?
    private void ManyReaders(IBufferUnderTest buffer, bool withWriter)
    {
        (ISyncFileUnderTest File, IPendingWork Work)[] readers =
            [.. Enumerable.Range(0, 32).Select(_ => backend.Pending())];
        (ISyncFileUnderTest writerFile, IPendingWork writer) = backend.Pending();
        foreach ((ISyncFileUnderTest file, _) in readers)
        {
            buffer.Import(Read, file);
            file.Dispose();
        }

        if (withWriter)
        {
            buffer.Import(Write, writerFile);
        }

        writerFile.Dispose();
        string name = withWriter ? "32 READ imports and a WRITE import" : "32 READ imports";
        step("DBUF-41", $"poll after {name}", buffer.Poll());
        int signalled = 0;
        while (signalled < readers.Length && buffer.Poll() is "in" or "nothing")
        {
            readers[signalled++].Work.Signal();
        }

        step("DBUF-41", $"poll of the {name} after {signalled} readers signalled", buffer.Poll());
        writer.Signal();
        step("DBUF-41", $"poll of the {name} after all signalled", buffer.Poll());
    }

    private void MergeRules()
    {
        (ISyncFileUnderTest a, IPendingWork workA) = backend.Pending();
        (ISyncFileUnderTest b, IPendingWork workB) = backend.Pending();
        (ISyncFileUnderTest c, IPendingWork workC) = backend.Pending();
        using ISyncFileUnderTest ab = Merged(a, b), aa = Merged(a, a), abb = Merged(ab, b), all = Merged(ab, c);
        step("FENCE-37", "merge of two fences", ab.Status());
        step("FENCE-37", "merge of a fence with itself", aa.Status());
        step("FENCE-40", "merge of a merged file with a part of it", abb.Status());
        step("FENCE-45", "three timelines merged", all.Status());
        step("FENCE-52", "FILE_INFO with num_fences 0", all.Count(0, 0));
        step("FENCE-52", "FILE_INFO with num_fences 2 of 3", all.Count(2, 0));
        step("FENCE-52", "FILE_INFO with flags 1", all.Count(0, 1));
        step("FENCE-52", "SET_DEADLINE", all.SetDeadline(0));
        step("FENCE-52", "SET_DEADLINE with padding", all.SetDeadline(1));
        a.TryMerge(null, 0, out string withNothing);
        step("FENCE-47", "merge with what is no sync_file", withNothing);
        a.TryMerge(b, 1, out string withFlags);
        step("FENCE-47", "merge with flags 1", withFlags);
        workA.Signal();
        step("FENCE-45", "the file when the first signalled", all.Status());
        step("FENCE-45", "poll of it, two pending", all.Poll());
        workB.Signal();
        step("FENCE-45", "the file when the second signalled", all.Status());
        using (ISyncFileUnderTest signalled = Merged(a, b))
        {
            step("FENCE-42", "merge of two signalled files", signalled.Status());
            step("FENCE-42", "poll of it", signalled.Poll());
        }

        workC.Signal();
        step("FENCE-45", "the file when all signalled", all.Status());
        step("FENCE-45", "poll of it, none pending", all.Poll());
        a.Dispose();
        b.Dispose();
        c.Dispose();
    }

    private static string Yes(bool isSo) => isSo ? "yes" : "no";

    private static string Export(IBufferUnderTest buffer, ulong flags)
    {
        using ISyncFileUnderTest? file = buffer.TryExport(flags, out string result);
        return result;
    }

    private static ISyncFileUnderTest Exported(IBufferUnderTest buffer, ulong flags) =>
        buffer.TryExport(flags, out string result)
        ?? throw new InvalidOperationException($"EXPORT_SYNC_FILE of {flags}: {result}");

    private static ISyncFileUnderTest Merged(ISyncFileUnderTest one, ISyncFileUnderTest other) =>
        one.TryMerge(other, 0, out string result) ?? throw new InvalidOperationException($"merge: {result}");
}
