using System.Text.Json.Nodes;
using Wayleave.Lab.Interop;
using Wayleave.Scenarios.Conformance;
using static Wayleave.Lab.Interop.DmaBufUapi;

namespace Wayleave.Lab.Guests;

/// <summary>
/// The cases of docs/cases.md that user space can ask the kernel: each step is a record of the case, the exporter,
/// what was done and what came of it.
/// </summary>
internal sealed unsafe class DmaBufCases(Records records, Vgem vgem, AdapterDevices adapters)
{
    private const int Size = 65536;

    private readonly List<string> _different = [];

    private string _exporter = "";
    private string _part = "";

    /// <summary>Asks the kernel everything.</summary>
    internal static int Run(string[] arguments)
    {
        if (arguments.Length != 0)
        {
            return ExitCodes.Usage;
        }

        using Vgem vgem = new();
        using AdapterDevices adapters = new();
        DmaBufCases cases = new(new Records(), vgem, adapters);
        using AdapterCases own = new(adapters, (name, what, result) => cases.Step(name, what, result));
        own.Begin();
        cases.Ask("udmabuf", KernelBuffer.Udmabuf, cases.UdmabufRules);
        cases.Ask("dma-heap", KernelBuffer.Heap, cases.HeapRules);
        cases.Ask("vgem", vgem.Create, cases.VgemRules);
        cases._part = "adapter";
        own.End("vgem");
        foreach (string line in cases._different)
        {
            Console.Error.WriteLine(line);
        }

        return cases._different.Count == 0 ? ExitCodes.Done : ExitCodes.Failed;
    }

    private void Ask(string exporter, Func<int, KernelBuffer> make, Action own)
    {
        _exporter = exporter;
        List<(string Case, string What, string Result)> kernel = Asked(new KernelBackend(vgem, make));
        _part = "common";
        foreach ((string name, string what, string result) in kernel)
        {
            Step(name, what, result);
        }

        _part = "kernel";
        FileRules(make);
        own();
        Hold("adapter", kernel, Asked(new AdapterBackend(adapters, exporter)));
        using KernelParts parts = new(adapters, exporter);
        Hold("core", kernel, Asked(parts.CreateBackend()));
    }

    private static List<(string Case, string What, string Result)> Asked(IBufferBackend backend)
    {
        List<(string, string, string)> steps = [];
        new BufferConformance(backend, (name, what, result) => steps.Add((name, what, result))).Run();
        return steps;
    }

    // One record for each case: how many of its steps answer as the kernel's own system calls do.
    private void Hold(
        string part, List<(string Case, string What, string Result)> kernel,
        List<(string Case, string What, string Result)> ours)
    {
        _part = part;
        foreach (IGrouping<string, (string Case, string What, string Result)> steps in kernel.GroupBy(s => s.Case))
        {
            int same = steps.Count(ours.Contains);
            Step(steps.Key, "all steps of the case", $"{same} of {steps.Count()} as by system calls");
        }

        _different.AddRange(ours.Except(kernel)
            .Select(s => $"{_exporter} by {part}: {s.Case} {s.What}: {s.Result}"));
    }

    private void Step(string name, string what, string result) => records.Add(new JsonObject
    {
        ["case"] = name,
        ["exporter"] = _exporter,
        ["part"] = _part,
        ["do"] = what,
        ["result"] = result,
    });

    // What only a file descriptor has, or where the kernel's exporters differ among themselves.
    private void FileRules(Func<int, KernelBuffer> make)
    {
        using KernelBuffer buffer = make(Size);
        Step("DBUF-27", "mmap shared", Map(buffer, Libc.MAP_SHARED, Size));
        Step("DBUF-27", "mmap private", Map(buffer, Libc.MAP_PRIVATE, Size));
        Step("DBUF-27", "mmap shared, a page past the end", Map(buffer, Libc.MAP_SHARED, Size + 4096));
        byte one = 0;
        Step("DBUF-27", "read", KernelResult.Number(Libc.pread(buffer.Fd, &one, 1, 0)));
        Step("DBUF-29", "SYNC END READ|WRITE before any START", buffer.Sync(SyncReadWrite | SyncEnd));
        Step("DBUF-29", "SYNC of a bad pointer", KernelResult.Ok(Libc.ioctl(buffer.Fd, Sync, null)));
        Step("DBUF-32", "SET_NAME of a bad pointer", KernelResult.Ok(Libc.ioctl(buffer.Fd, SetName, null)));
        Step("DBUF-32", "PRIME import", KernelResult.Ok(vgem.TryImport(buffer.Fd)));
        Step("DBUF-32", "SET_NAME while attached", buffer.SetName("later"));
        Step("DBUF-32", "name in fdinfo", buffer.FdInfo("name:"));
        Step("DBUF-42", "IMPORT of -1", buffer.Import(SyncWrite, -1));
        Step("DBUF-42", "an unknown ioctl", KernelResult.Ok(Libc.ioctl(buffer.Fd, Unknown, &one)));
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

        // Close of the device signals; a fence that nobody signals does so by itself after ten seconds.
        Vgem other = new();
        (RawSyncFile orphan, _) = other.Pending();
        other.Dispose();
        Step("FENCE-56", "the file when its device was closed", orphan.Status());
        orphan.Dispose();
        (RawSyncFile forgotten, uint fence) = vgem.Pending();
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
}
