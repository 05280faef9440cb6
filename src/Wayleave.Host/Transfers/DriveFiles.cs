using System.Globalization;
using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Nvme;
using Wayleave.Host.Objects;
using Wayleave.Linux;

namespace Wayleave.Host.Transfers;

/// <summary>What became of a file that a peer wrote.</summary>
/// <param name="Bytes">Of the file.</param>
/// <param name="Sha256">Of its content, as it was read back from the drive.</param>
/// <param name="StagingBytes">
/// Bytes that the drive took from anywhere but its own memory buffer: they would have passed through system memory.
/// </param>
/// <param name="Proof">Of the memory buffer's part, taken back from the peer and the drive.</param>
public sealed record StoredFile(ulong Bytes, string Sha256, ulong StagingBytes, RetirementProof Proof);

// The NVMe-oF pattern (drivers/nvme/target/rdma.c with p2pmem): a peer's RDMA WRITE lands in the drive's own memory,
// and the drive writes its medium from there. The object in the memory buffer is a window onto the file:
//
//   create nvme0/NAME, lease it    a resource of the memory buffer, lent to the peer's queue pair
//   open                           a file without a name in the drive's folder, a namespace of the drive
//   RDMA WRITE, write, ...         any part of the window to any place of the file, several at once
//   commit                         leases end, the window is taken back with a proof, the file is checked and named

/// <summary>Files that peers write to drives just now. Members take the host lock themselves.</summary>
public sealed class DriveFiles : IDisposable
{
    private const int HashBytes = 1 << 20;

    private readonly WayleaveHost _host;
    private readonly Dictionary<ulong, OpenFile> _files = []; // under itself

    internal DriveFiles(WayleaveHost host) => _host = host;

    /// <summary>Opens the file that a window is for. It gets the window's name with the commit.</summary>
    /// <exception cref="WayleaveException">
    /// EOPNOTSUPP: the object is not in a drive's memory buffer. EPERM: its drive has no folder. Or what the folder
    /// says.
    /// </exception>
    public async Task OpenAsync(DeviceObject window, ulong sizeBytes, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(window);
        string operation = $"open {window} as a file";
        if (window.Owner is not NvmeHandle drive)
        {
            throw new WayleaveException(Errno.EOPNOTSUPP, operation, $"{window.Device} is no drive");
        }

        if (drive.Folder is not { } folder)
        {
            throw new WayleaveException(
                Errno.EPERM, operation, $"peers may write no files to {drive.Name}", "give the drive a folder");
        }

        if (sizeBytes is 0 or > long.MaxValue)
        {
            throw new WayleaveException(Errno.EINVAL, operation, "a file has at least one byte");
        }

        DropStale();
        await drive.WaitReadyAsync(cancellation).ConfigureAwait(false);
        WholeFile file = WholeFile.Create(Path.Combine(folder, window.Name), (long)sizeBytes);
        try
        {
            string self = string.Create(
                CultureInfo.InvariantCulture, $"/proc/self/fd/{file.Handle.DangerousGetHandle()}");
            NvmeNamespace medium = drive.Open(self, isWritable: true, (long)sizeBytes);
            OpenFile opened = new(window, drive, file, medium, sizeBytes);
            lock (_files)
            {
                if (_files.TryAdd(window.Id, opened))
                {
                    return;
                }
            }

            drive.Close(medium);
            throw new WayleaveException(Errno.EALREADY, operation, "it is open");
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Has the drive write a part of the window to the file. Several parts may be under way at once.</summary>
    /// <param name="window">Open.</param>
    /// <param name="windowOffset">Of the first byte in the window; a multiple of 4096.</param>
    /// <param name="fileOffset">Of the first byte in the file; a multiple of 4096.</param>
    /// <param name="lengthBytes">Whole blocks of 4096, or up to the end of the file.</param>
    /// <param name="cancellation">Ends the wait; the commands under way are stopped.</param>
    /// <exception cref="WayleaveException">
    /// ERANGE: it is outside of either. ENODEV: the window was taken back, or the drive was pulled out.
    /// </exception>
    public async Task WriteAsync(
        DeviceObject window,
        ulong windowOffset,
        ulong fileOffset,
        ulong lengthBytes,
        CancellationToken cancellation = default)
    {
        const ulong Block = 1UL << NvmeHandle.BlockShift;
        OpenFile file = Find(window);
        string operation = $"write {window} to its file";
        bool isEnd = fileOffset + lengthBytes == file.SizeBytes;
        if (lengthBytes == 0 || windowOffset % Block != 0 || fileOffset % Block != 0
            || (lengthBytes % Block != 0 && !isEnd) || fileOffset >= file.SizeBytes
            || lengthBytes > file.SizeBytes - fileOffset || windowOffset >= window.SizeBytes
            || lengthBytes > window.SizeBytes - windowOffset)
        {
            throw new WayleaveException(
                Errno.ERANGE,
                operation,
                $"{lengthBytes} bytes at {windowOffset} of the window and {fileOffset} of the file are not whole "
                    + "blocks of both");
        }

        DriveMove move = new(_host, file.Drive, window.Buffer, file.Medium, NvmeOpcode.Write, lengthBytes)
        {
            Operation = operation,
            BufferOffset = windowOffset,
            MediumOffset = fileOffset,
            Moved = bytes => Interlocked.Add(ref file.WrittenBytes, bytes),
        };
        using IDisposable use = file.Drive.Presence.Use(operation);
        try
        {
            await move.RunAsync(cancellation).ConfigureAwait(false);
        }
        catch (WayleaveException e) when (!file.Drive.Presence.IsPresent)
        {
            throw file.Drive.Presence.Gone(operation, e);
        }
    }

    /// <summary>
    /// Takes the window back from everybody, checks the file and gives it its name; a file of that name is replaced.
    /// </summary>
    /// <param name="window">Open; its object is gone afterwards.</param>
    /// <param name="sha256">What the file should hash to, lower-case hexadecimal; null for no check.</param>
    /// <param name="cancellation">Ends the check; nothing stays.</param>
    /// <exception cref="WayleaveException">
    /// EIO: the content differs, or bytes are missing. EBUSY: somebody may still write to the window; it is in
    /// quarantine.
    /// </exception>
    public async Task<StoredFile> CommitAsync(
        DeviceObject window, string? sha256, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(window);
        OpenFile file = Take(window) ?? throw NotOpen(window); // from here on nobody else gives it up
        string operation = $"commit {window}";
        try
        {
            await _host.Leases.EndAllAsync(window).ConfigureAwait(false);
            RetirementProof proof = await _host.Objects
                .RevokeAsync(window, new RevokePolicy { Reason = "the file is written" }).ConfigureAwait(false);
            if (!proof.IsSufficient)
            {
                throw new WayleaveException(
                    Errno.EBUSY, operation, $"the proof is only {proof.Grade}", "its memory stays in quarantine");
            }

            ulong written = Interlocked.Read(ref file.WrittenBytes);
            if (written < file.SizeBytes)
            {
                throw new WayleaveException(
                    Errno.EIO, operation, $"{written} of {file.SizeBytes} bytes were written", "send it again");
            }

            CloseMedium(file);
            file.File.Truncate((long)file.SizeBytes);
            string actual = await Task.Run(() => Hash(file, cancellation), cancellation).ConfigureAwait(false);
            if (sha256 is not null && actual != sha256)
            {
                throw new WayleaveException(
                    Errno.EIO, operation, $"sha256 is {actual}, not {sha256}", "send it again");
            }

            file.File.Publish();
            ulong staged = (ulong)Math.Max(0, StagedBytes(file.Drive) - file.StagedBefore);
            return new StoredFile(file.SizeBytes, actual, staged, proof);
        }
        finally
        {
            Close(file);
        }
    }

    /// <summary>
    /// Gives a file up that was not committed; nothing stays of it. Does nothing for any other object.
    /// </summary>
    public void Drop(DeviceObject window)
    {
        ArgumentNullException.ThrowIfNull(window);
        if (Take(window) is { } file)
        {
            Close(file);
        }
    }

    public void Dispose()
    {
        OpenFile[] files;
        lock (_files)
        {
            files = [.. _files.Values];
        }

        foreach (OpenFile file in files)
        {
            Drop(file.Window);
        }
    }

    // Past the page cache: of what the medium has, not of what it was told.
    private static string Hash(OpenFile file, CancellationToken cancellation)
    {
        string self = string.Create(
            CultureInfo.InvariantCulture, $"/proc/self/fd/{file.File.Handle.DangerousGetHandle()}");
        using DirectFile content = DirectFile.Open(self, isWritable: false);
        using MappedMemory buffer = MappedMemory.AllocateAnonymous(HashBytes, hugePages: false);
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        for (ulong offset = 0; offset < file.SizeBytes; offset += HashBytes)
        {
            cancellation.ThrowIfCancellationRequested();
            Span<byte> piece = buffer.Memory.Span;
            content.Read((long)offset, piece).ThrowIfFailed($"read {file.Window} back");
            hash.AppendData(piece[..(int)Math.Min(HashBytes, file.SizeBytes - offset)]);
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    private static void Close(OpenFile file)
    {
        CloseMedium(file);
        file.File.Dispose();
    }

    private static WayleaveException NotOpen(DeviceObject window) =>
        new(Errno.EBADF, $"write {window}", "no file is open for it", "open it first");

    private OpenFile? Take(DeviceObject window)
    {
        lock (_files)
        {
            _files.Remove(window.Id, out OpenFile? file);
            return file;
        }
    }

    // What a drive moved to or from memory for staging, over every route that counts as that.
    private static long StagedBytes(NvmeHandle drive) =>
        drive.Controller.Port.BytesRead(PeerRoute.Staging) + drive.Controller.Port.BytesWritten(PeerRoute.Staging);

    private static void CloseMedium(OpenFile file)
    {
        if (Interlocked.Exchange(ref file.IsClosed, 1) == 0)
        {
            file.Drive.Close(file.Medium);
        }
    }

    private OpenFile Find(DeviceObject window)
    {
        ArgumentNullException.ThrowIfNull(window);
        lock (_files)
        {
            return _files.GetValueOrDefault(window.Id) ?? throw NotOpen(window);
        }
    }

    // A window that was taken back has no writer any more.
    private void DropStale()
    {
        OpenFile[] files;
        lock (_files)
        {
            files = [.. _files.Values];
        }

        foreach (OpenFile file in files)
        {
            bool isStale;
            using (_host.Context.Enter())
            {
                isStale = file.Window.State != ObjectState.Writing;
            }

            if (isStale)
            {
                Drop(file.Window);
            }
        }
    }

    private sealed class OpenFile(
        DeviceObject window, NvmeHandle drive, WholeFile file, NvmeNamespace medium, ulong sizeBytes)
    {
        public ulong WrittenBytes;
        public int IsClosed;

        public DeviceObject Window { get; } = window;

        public NvmeHandle Drive { get; } = drive;

        public WholeFile File { get; } = file;

        public NvmeNamespace Medium { get; } = medium;

        public ulong SizeBytes { get; } = sizeBytes;

        public long StagedBefore { get; } = StagedBytes(drive);
    }
}
