using System.Text.Json.Nodes;
using Wayleave.Lab.Interop;
using static Wayleave.Lab.Interop.DmaBufUapi;

namespace Wayleave.Lab.Guests;

/// <summary>
/// The cases of docs/cases.md that user space can ask the kernel: each step is a record of the case, the exporter,
/// what was done and what came of it.
/// </summary>
internal sealed unsafe class DmaBufCases(Records records, Vgem vgem)
{
    private const int Size = 65536;

    private string _exporter = "";

    /// <summary>Asks the kernel everything.</summary>
    internal static int Run(string[] arguments)
    {
        if (arguments.Length != 0)
        {
            return ExitCodes.Usage;
        }

        using Vgem vgem = new();
        DmaBufCases cases = new(new Records(), vgem);
        foreach ((string name, Func<int, KernelBuffer> make) in new (string, Func<int, KernelBuffer>)[]
        {
            ("udmabuf", KernelBuffer.Udmabuf), ("dma-heap", KernelBuffer.Heap), ("vgem", vgem.Create),
        })
        {
            cases._exporter = name;
            cases.FileRules(make);
            cases.FenceRules(make);
            cases.SyncFileRules(make);
        }

        cases._exporter = "udmabuf";
        cases.UdmabufRules();
        cases._exporter = "dma-heap";
        cases.HeapRules();
        cases._exporter = "vgem";
        cases.VgemRules();
        return ExitCodes.Done;
    }

    private void Step(string name, string what, string result) => records.Add(new JsonObject
    {
        ["case"] = name,
        ["exporter"] = _exporter,
        ["do"] = what,
        ["result"] = result,
    });

    private void FileRules(Func<int, KernelBuffer> make)
    {
        using KernelBuffer buffer = make(Size);
        Step("DBUF-28", "lseek SEEK_END 0", KernelResult.Number(Libc.lseek(buffer.Fd, 0, Libc.SEEK_END)));
        Step("DBUF-28", "lseek SEEK_SET 0", KernelResult.Number(Libc.lseek(buffer.Fd, 0, Libc.SEEK_SET)));
        Step("DBUF-28", "lseek SEEK_CUR 0", KernelResult.Number(Libc.lseek(buffer.Fd, 0, Libc.SEEK_CUR)));
        Step("DBUF-28", "lseek SEEK_SET 1", KernelResult.Number(Libc.lseek(buffer.Fd, 1, Libc.SEEK_SET)));
        Step("DBUF-28", "lseek SEEK_END 1", KernelResult.Number(Libc.lseek(buffer.Fd, 1, Libc.SEEK_END)));
        Step("DBUF-27", "mmap shared", Map(buffer, Libc.MAP_SHARED, Size));
        Step("DBUF-27", "mmap private", Map(buffer, Libc.MAP_PRIVATE, Size));
        Step("DBUF-27", "mmap shared, a page past the end", Map(buffer, Libc.MAP_SHARED, Size + 4096));
        byte one = 0;
        Step("DBUF-27", "read", KernelResult.Number(Libc.pread(buffer.Fd, &one, 1, 0)));

        Step("DBUF-29", "SYNC END READ|WRITE before any START", buffer.Sync(SyncReadWrite | SyncEnd));
        Step("DBUF-29", "SYNC 0", buffer.Sync(0));
        Step("DBUF-29", "SYNC 8", buffer.Sync(8));
        Step("DBUF-29", "SYNC END", buffer.Sync(SyncEnd));
        foreach ((string name, ulong flags) in new[]
            { ("READ", SyncRead), ("WRITE", SyncWrite), ("READ|WRITE", SyncReadWrite) })
        {
            Step("DBUF-29", $"SYNC START {name}", buffer.Sync(flags));
            Step("DBUF-29", $"SYNC END {name}", buffer.Sync(flags | SyncEnd));
        }

        Step("DBUF-29", "SYNC of a bad pointer", KernelResult.Ok(Libc.ioctl(buffer.Fd, Sync, null)));
        Step("DBUF-32", "SET_NAME of 31 characters", buffer.SetName(new string('a', 31)));
        Step("DBUF-32", "name in fdinfo", FdInfo(buffer, "name:"));
        Step("DBUF-32", "SET_NAME of 32 characters", buffer.SetName(new string('b', 32)));
        Step("DBUF-32", "PRIME import", KernelResult.Ok(vgem.TryImport(buffer.Fd)));
        Step("DBUF-32", "SET_NAME while attached", buffer.SetName("later"));
        Step("DBUF-32", "the later name in fdinfo", FdInfo(buffer, "name:"));
        Step("DBUF-32", "SET_NAME of a bad pointer", KernelResult.Ok(Libc.ioctl(buffer.Fd, SetName, null)));
        Step("DBUF-33", "poll for nothing", KernelPoll.Now(buffer.Fd, 0));

        Step("DBUF-42", "EXPORT flags 0", KernelResult.Ok(buffer.TryExport(0)));
        Step("DBUF-42", "EXPORT flags 4", KernelResult.Ok(buffer.TryExport(4)));
        (KernelSyncFile file, uint fence) = vgem.Pending();
        using (file)
        {
            Step("DBUF-42", "IMPORT flags 0", buffer.Import(0, file.Fd));
            Step("DBUF-42", "IMPORT flags 4", buffer.Import(4, file.Fd));
            vgem.Signal(fence);
        }

        Step("DBUF-42", "IMPORT of the buffer itself", buffer.Import(SyncWrite, buffer.Fd));
        Step("DBUF-42", "IMPORT of -1", buffer.Import(SyncWrite, -1));
        Step("DBUF-42", "an unknown ioctl", KernelResult.Ok(Libc.ioctl(buffer.Fd, Unknown, &one)));
    }

    private void FenceRules(Func<int, KernelBuffer> make)
    {
        using KernelBuffer buffer = make(Size);
        uint handle = vgem.Import(buffer);
        Step("DBUF-33", "poll idle", buffer.Poll());
        using (KernelSyncFile idle = buffer.Export(SyncReadWrite))
        {
            Step("DBUF-38", "EXPORT WRITE of an idle buffer", idle.Status());
        }

        uint reader = vgem.Attach(handle, isWriter: false);
        Step("DBUF-33", "poll under a READ fence", buffer.Poll());
        using (KernelSyncFile read = buffer.Export(SyncRead))
        using (KernelSyncFile write = buffer.Export(SyncWrite))
        {
            Step("DBUF-38", "EXPORT READ under a READ fence", read.Status());
            Step("DBUF-38", "EXPORT WRITE under a READ fence", write.Status());
            Step("DBUF-30", "SYNC START READ under a READ fence", buffer.Sync(SyncRead));
            Step("DBUF-30", "SYNC START WRITE under a READ fence", KernelPoll.Blocking(
                () => buffer.Sync(SyncWrite), () => vgem.Signal(reader)));
            Step("DBUF-38", "the file of READ after the signal", read.Status());
            Step("DBUF-38", "the file of WRITE after the signal", write.Status());
        }

        Step("DBUF-33", "poll after the READ fence", buffer.Poll());

        uint writer = vgem.Attach(handle, isWriter: true);
        Step("DBUF-33", "poll under a WRITE fence", buffer.Poll());
        Step("DBUF-52", "SYNC START READ under a WRITE fence", KernelPoll.Blocking(
            () => buffer.Sync(SyncRead), () => vgem.Signal(writer)));
        Step("DBUF-33", "poll after the WRITE fence", buffer.Poll());

        uint first = vgem.Attach(handle, isWriter: false), second = vgem.Attach(handle, isWriter: false);
        using (KernelSyncFile both = buffer.Export(SyncWrite))
        {
            uint third = vgem.Attach(handle, isWriter: false);
            vgem.Signal(first);
            Step("DBUF-39", "the exported file when the first of two signalled", both.Status());
            vgem.Signal(second);
            Step("DBUF-39", "the exported file when both signalled and a later one is pending", both.Status());
            Step("DBUF-39", "poll of the buffer then", buffer.Poll());
            vgem.Signal(third);
        }

        uint last = vgem.Attach(handle, isWriter: true);
        string other = "";
        Thread secondPoller = new(
            () => other = KernelPoll.Wait(buffer.Fd, Libc.POLLIN, timeoutMs: 5000));
        secondPoller.Start();
        Step("DBUF-36", "poll IN of the first of two pollers", KernelPoll.Blocking(
            () => KernelPoll.Wait(buffer.Fd, Libc.POLLIN, timeoutMs: 5000), () => vgem.Signal(last)));
        secondPoller.Join();
        Step("DBUF-36", "poll IN of the second", other);
    }

    private void SyncFileRules(Func<int, KernelBuffer> make)
    {
        using KernelBuffer buffer = make(Size);
        (KernelSyncFile a, uint fenceA) = vgem.Pending();
        Step("DBUF-40", "IMPORT READ of a pending fence", buffer.Import(SyncRead, a.Fd));
        Step("DBUF-40", "poll after the READ import", buffer.Poll());
        Step("DBUF-40", "IMPORT WRITE of it", buffer.Import(SyncWrite, a.Fd));
        Step("DBUF-40", "poll after the WRITE import", buffer.Poll());
        vgem.Signal(fenceA);
        Step("DBUF-40", "poll after the signal", buffer.Poll());
        Step("DBUF-40", "IMPORT WRITE of a signalled fence", buffer.Import(SyncWrite, a.Fd));
        Step("DBUF-40", "poll after the import of a signalled fence", buffer.Poll());
        a.Dispose();

        ManyReaders(buffer, withWriter: false);
        ManyReaders(buffer, withWriter: true);

        (KernelSyncFile File, uint Fence)[] three = [vgem.Pending(), vgem.Pending(), vgem.Pending()];
        using (KernelSyncFile two = three[0].File.Merge(three[1].File))
        using (KernelSyncFile merged = two.Merge(three[2].File))
        {
            Step("DBUF-43", "a file of three fences", merged.Status());
            Step("DBUF-43", "IMPORT WRITE of it", buffer.Import(SyncWrite, merged.Fd));
            vgem.Signal(three[1].Fence);
            using (KernelSyncFile left = buffer.Export(SyncReadWrite))
            {
                Step("DBUF-43", "EXPORT when one of them signalled", left.Status());
            }

            vgem.Signal(three[0].Fence);
            Step("DBUF-35", "poll when two of three WRITE fences signalled", buffer.Poll());
            Step("DBUF-35", "poll IN, the third pending", KernelPoll.Blocking(
                () => KernelPoll.Wait(buffer.Fd, Libc.POLLIN, timeoutMs: 5000), () => vgem.Signal(three[2].Fence)));
        }

        foreach ((KernelSyncFile file, _) in three)
        {
            file.Dispose();
        }
    }

    // 32 fences of 32 timelines, imported as readers; how many have to signal until a writer may go on?
    private void ManyReaders(KernelBuffer buffer, bool withWriter)
    {
        (KernelSyncFile File, uint Fence)[] readers = [.. Enumerable.Range(0, 32).Select(_ => vgem.Pending())];
        (KernelSyncFile writerFile, uint writer) = vgem.Pending();
        foreach ((KernelSyncFile file, _) in readers)
        {
            buffer.Import(SyncRead, file.Fd);
            file.Dispose();
        }

        if (withWriter)
        {
            buffer.Import(SyncWrite, writerFile.Fd);
        }

        string name = withWriter ? "32 READ imports and a WRITE import" : "32 READ imports";
        Step("DBUF-41", $"poll after {name}", buffer.Poll());
        int signalled = 0;
        while (signalled < 32 && buffer.Poll() is "in" or "nothing")
        {
            vgem.Signal(readers[signalled++].Fence);
        }

        Step("DBUF-41", $"poll after {signalled} of the {name} signalled", buffer.Poll());
        vgem.Signal(writer);
        writerFile.Dispose();
        Step("DBUF-41", $"poll after all of the {name} signalled", buffer.Poll());
    }

    private void UdmabufRules()
    {
        Step("DBUF-05", "PRIME import of -1", KernelResult.Ok(vgem.TryImport(-1)));
        int* ends = stackalloc int[2];
        KernelResult.Required(Libc.pipe(ends), "pipe");
        Step("DBUF-05", "PRIME import of a pipe", KernelResult.Ok(vgem.TryImport(ends[0])));

        int memory = KernelBuffer.MemFd(Size, Libc.F_SEAL_SHRINK);
        string Create(int fd, ulong offset, ulong size)
        {
            int buffer = KernelBuffer.TryUdmabuf(fd, offset, size);
            string result = KernelResult.Ok(buffer);
            if (buffer >= 0)
            {
                Libc.close(buffer);
            }

            return result;
        }

        Step("DBUF-44", "offset of half a page", Create(memory, 2048, 4096));
        Step("DBUF-44", "size of half a page", Create(memory, 0, 2048));
        Step("DBUF-44", "size 0", Create(memory, 0, 0));
        Step("DBUF-44", "past the end of the memfd", Create(memory, 0, Size + 4096));
        Step("DBUF-44", "a pipe", Create(ends[0], 0, 4096));
        Step("DBUF-44", "fd -1", Create(-1, 0, 4096));
        Step("DBUF-44", "a memfd without seals", Create(KernelBuffer.MemFd(Size, 0), 0, 4096));
        Step("DBUF-44", "a memfd with F_SEAL_WRITE",
            Create(KernelBuffer.MemFd(Size, Libc.F_SEAL_SHRINK | Libc.F_SEAL_WRITE), 0, 4096));
        Step("DBUF-44", "an aligned memfd with F_SEAL_SHRINK", Create(memory, 4096, 8192));
        Step("DBUF-45", "4 KiB: the memfd and the dma-buf are one memory", IsOneMemory(4096));
        Step("DBUF-45", "2 MiB: the memfd and the dma-buf are one memory", IsOneMemory(2 << 20));
    }

    private static string IsOneMemory(int size)
    {
        int memory = KernelBuffer.MemFd(size, Libc.F_SEAL_SHRINK);
        using KernelBuffer buffer = new(
            KernelResult.Required(KernelBuffer.TryUdmabuf(memory, 0, (ulong)size), "UDMABUF_CREATE"), size);
        Span<byte> mapped = buffer.Map();
        byte value = 0x5a;
        Libc.pwrite(memory, &value, 1, size - 1);
        bool isSeen = mapped[size - 1] == 0x5a;
        mapped[0] = 0xa5;
        Libc.pread(memory, &value, 1, 0);
        KernelBuffer.Unmap(mapped);
        Libc.close(memory);
        return isSeen && value == 0xa5 ? "yes" : "no";
    }

    private void HeapRules()
    {
        foreach (int size in (ReadOnlySpan<int>)[4096, 1 << 20])
        {
            Fill(size, 0xff);
            Step("DBUF-46", $"32 buffers of {size >> 10} KiB after 32 filled ones were freed", Fill(size, 0));
        }

        string Allocate(nuint request, HeapArgument argument)
        {
            string result = KernelResult.Ok(KernelBuffer.TryHeap(request, &argument));
            if (result == "ok")
            {
                Libc.close((int)argument.Fd);
            }

            return result;
        }

        HeapArgument good = new() { Length = 4096, FdFlags = Libc.O_RDWR | Libc.O_CLOEXEC };
        Step("DBUF-47", "ALLOC", Allocate(HeapAllocate, good));
        Step("DBUF-47", "ALLOC, heap_flags 1", Allocate(HeapAllocate, good with { HeapFlags = 1 }));
        Step("DBUF-47", "ALLOC, fd_flags O_DIRECT", Allocate(HeapAllocate, good with { FdFlags = Libc.O_DIRECT }));
        Step("DBUF-47", "ALLOC, fd 1 on entry", Allocate(HeapAllocate, good with { Fd = 1 }));
        Step("DBUF-47", "ALLOC of 0 bytes", Allocate(HeapAllocate, good with { Length = 0 }));
        Step("DBUF-47", "ALLOC of 1 byte", Allocate(HeapAllocate, good with { Length = 1 }));
        Step("DBUF-47", "ALLOC with a structure 8 bytes shorter", Allocate(WithSize(HeapAllocate, 16), good));
        Step("DBUF-47", "ALLOC with a structure 8 bytes longer", AllocateLonger(good));
        Step("DBUF-47", "ALLOC on a file that is no heap",
            KernelResult.Ok(Libc.ioctl(KernelBuffer.MemFd(4096, 0), HeapAllocate, &good)));

        using KernelBuffer buffer = KernelBuffer.Heap(Size);
        Span<byte> mapped = buffer.Map();
        Step("DBUF-48", "SYNC START READ|WRITE", buffer.Sync(SyncReadWrite));
        mapped.Fill(0x77);
        Step("DBUF-48", "SYNC END READ|WRITE", buffer.Sync(SyncReadWrite | SyncEnd));
        Step("DBUF-48", "PRIME import", KernelResult.Ok(vgem.TryImport(buffer.Fd)));
        Step("DBUF-48", "SYNC START READ|WRITE after the import", buffer.Sync(SyncReadWrite));
        Step("DBUF-48", "SYNC END READ|WRITE after the import", buffer.Sync(SyncReadWrite | SyncEnd));
        KernelBuffer.Unmap(mapped);
    }

    // The kernel takes a longer structure than it knows, and looks at its own part.
    private static string AllocateLonger(HeapArgument argument)
    {
        HeapArgument* longer = stackalloc HeapArgument[2];
        longer[0] = argument;
        longer[1] = default;
        string result = KernelResult.Ok(KernelBuffer.TryHeap(WithSize(HeapAllocate, 32), longer));
        if (result == "ok")
        {
            Libc.close((int)longer->Fd);
        }

        return result;
    }

    // Allocates 32 buffers, looks whether all is zero, fills them, and frees them.
    private static string Fill(int size, byte value)
    {
        KernelBuffer[] buffers = [.. Enumerable.Range(0, 32).Select(_ => KernelBuffer.Heap(size))];
        bool isZero = true;
        foreach (KernelBuffer buffer in buffers)
        {
            Span<byte> mapped = buffer.Map();
            isZero &= !mapped.ContainsAnyExcept((byte)0);
            mapped.Fill(value);
            KernelBuffer.Unmap(mapped);
        }

        foreach (KernelBuffer buffer in buffers)
        {
            buffer.Dispose();
        }

        return isZero ? "all zero" : "not zero";
    }

    private void VgemRules()
    {
        using KernelBuffer buffer = vgem.Create(4096);
        uint handle = vgem.Import(buffer);
        uint reader = vgem.Attach(handle, isWriter: false);
        Step("FENCE-55", "WRITE attach while a READ fence pends", KernelResult.Ok(vgem.TryAttach(handle, VgemWrite)));
        int secondReader = vgem.TryAttach(handle, 0);
        Step("FENCE-55", "second READ attach", KernelResult.Ok(secondReader));
        Step("FENCE-55", "attach with flags 2", KernelResult.Ok(vgem.TryAttach(handle, 2)));
        Step("FENCE-55", "attach to no handle", KernelResult.Ok(vgem.TryAttach(9999, 0)));
        Step("FENCE-56", "signal", vgem.Signal(reader));
        Step("FENCE-56", "signal again", vgem.Signal(reader));
        vgem.Signal((uint)secondReader);

        (KernelSyncFile a, uint fenceA) = vgem.Pending();
        (KernelSyncFile b, uint fenceB) = vgem.Pending();
        (KernelSyncFile c, uint fenceC) = vgem.Pending();
        using KernelSyncFile ab = a.Merge(b), aa = a.Merge(a), abb = ab.Merge(b), all = ab.Merge(c);
        Step("FENCE-37", "merge of two fences", ab.Status());
        Step("FENCE-37", "merge of a fence with itself", aa.Status());
        Step("FENCE-40", "merge of a merged file with a part of it", abb.Status());
        Step("FENCE-45", "three timelines merged", all.Status());
        Step("FENCE-52", "FILE_INFO with num_fences 0", all.Count(0, 0));
        Step("FENCE-52", "FILE_INFO with num_fences 2 of 3", all.Count(2, 0));
        Step("FENCE-52", "FILE_INFO with flags 1", all.Count(0, 1));
        Step("FENCE-52", "SET_DEADLINE", all.SetDeadline(1, 0));
        Step("FENCE-52", "SET_DEADLINE with pad 1", all.SetDeadline(1, 1));
        Step("FENCE-47", "merge with -1", KernelResult.Ok(a.TryMerge(-1)));
        Step("FENCE-47", "merge with a dma-buf", KernelResult.Ok(a.TryMerge(buffer.Fd)));
        Step("FENCE-47", "merge with flags 1", KernelResult.Ok(a.TryMerge(b.Fd, flags: 1)));
        vgem.Signal(fenceA);
        Step("FENCE-45", "the file when the first signalled", all.Status());
        Step("FENCE-45", "poll of it, two pending", all.Poll());
        vgem.Signal(fenceB);
        Step("FENCE-45", "the file when the second signalled", all.Status());
        using (KernelSyncFile signalled = a.Merge(b))
        {
            Step("FENCE-42", "merge of two signalled files", signalled.Status());
            Step("FENCE-42", "poll of it", signalled.Poll());
        }

        vgem.Signal(fenceC);
        Step("FENCE-45", "the file when all signalled", all.Status());
        Step("FENCE-45", "poll of it, none pending", all.Poll());
        a.Dispose();
        b.Dispose();
        c.Dispose();

        // Close of the device signals; a fence that nobody signals does so by itself after ten seconds.
        Vgem other = new();
        (KernelSyncFile orphan, _) = other.Pending();
        other.Dispose();
        Step("FENCE-56", "the file when its device was closed", orphan.Status());
        orphan.Dispose();
        (KernelSyncFile forgotten, uint fence) = vgem.Pending();
        Step("FENCE-56", "poll of a fence that nobody signals, for 30 s",
            KernelPoll.Wait(forgotten.Fd, Libc.POLLIN, timeoutMs: 30000));
        Step("FENCE-56", "its file then", forgotten.Status());
        Step("FENCE-56", "signal then", vgem.Signal(fence));
        forgotten.Dispose();
    }

    private static string Map(KernelBuffer buffer, int flags, int length)
    {
        byte* mapped = Libc.mmap(null, (nuint)length, Libc.PROT_READ | Libc.PROT_WRITE, flags, buffer.Fd, 0);
        string result = KernelResult.Ok(mapped == Libc.MapFailed ? -1 : 0);
        if (mapped != Libc.MapFailed)
        {
            Libc.munmap(mapped, (nuint)length);
        }

        return result;
    }

    private static string FdInfo(KernelBuffer buffer, string key) =>
        File.ReadLines($"/proc/self/fdinfo/{buffer.Fd}")
            .Where(l => l.StartsWith(key, StringComparison.Ordinal)).Select(l => l[key.Length..].Trim())
            .FirstOrDefault() ?? "none";
}
