using System.Diagnostics;
using System.Globalization;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Nvme;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Transfers;

/// <summary>What a copy between a drive and device memory did.</summary>
/// <param name="Bytes">Of the file.</param>
/// <param name="StagingBytes">
/// Bytes that passed through system memory because there was no way to the device's memory.
/// </param>
/// <param name="Verdict">What the rules say about the way from the drive to that memory.</param>
/// <param name="Elapsed">From the first command to the last completion, staging included.</param>
public sealed record DriveCopyResult(ulong Bytes, ulong StagingBytes, PeerVerdict Verdict, TimeSpan Elapsed);

/// <summary>
/// Copies between a file and an object by a drive of this host: NVMe commands whose data pointers are addresses of
/// device memory. Where the topology has no way for them, an object that can move goes through system memory, is
/// counted, and can be refused; one that stays where it is, is refused.
/// </summary>
public sealed class DriveCopy(WayleaveHost host, NvmeHandle drive)
{
    /// <summary>One command moves at most so much.</summary>
    public const int CommandBytes = NvmeControllerOptions.TransferBytesMax;

    /// <summary>
    /// How long no command may end while some are under way: a file whose file system hangs would never answer.
    /// </summary>
    public TimeSpan StallMax { get; init; } = BulkTransfer.DefaultStallMax;

    /// <summary>Loads a file into a new object.</summary>
    /// <param name="path">The file.</param>
    /// <param name="device">A device with memory.</param>
    /// <param name="name">The object's name; an older object of that name is replaced at the end.</param>
    /// <param name="deniesStaging">Whether to fail when bytes would have to pass through system memory.</param>
    /// <param name="cancellation">Ends the copy; nothing stays of it.</param>
    /// <exception cref="WayleaveException">
    /// The file cannot be read, there is no room, or, EREMOTEIO, no way without staging: the message has the reason.
    /// </exception>
    public async Task<(DeviceObject Object, DriveCopyResult Result)> LoadAsync(
        string path, string device, string name, bool deniesStaging, CancellationToken cancellation = default)
    {
        await drive.WaitReadyAsync(cancellation).ConfigureAwait(false);
        NvmeNamespace source = drive.Open(path, isWritable: false);
        try
        {
            ulong length = (ulong)drive.LengthBytes(source);
            DeviceObject made = await host.Objects
                .CreateAsync(device, name, length, storage: null, cancellation).ConfigureAwait(false);
            try
            {
                DriveCopyResult result = await MoveAsync(
                    made, source, NvmeOpcode.Read, $"copy {path} to {made}", deniesStaging, cancellation)
                    .ConfigureAwait(false);
                host.Objects.BeginCommit(made);
                await host.Objects.CommitAsync(made, sha256: null).ConfigureAwait(false);
                return (made, result);
            }
            catch
            {
                await host.Objects.AbortAsync(made, $"its copy from {drive.Name} failed").ConfigureAwait(false);
                throw;
            }
        }
        finally
        {
            drive.Close(source);
        }
    }

    /// <summary>Saves an object to a file, which appears under its name when it is whole.</summary>
    /// <param name="o">A ready object; somebody who writes to it meanwhile changes what is saved.</param>
    /// <param name="path">Replaced if it is there.</param>
    /// <param name="deniesStaging">Whether to fail when bytes would have to pass through system memory.</param>
    /// <param name="cancellation">Ends the copy; the file is what it was.</param>
    /// <exception cref="WayleaveException">As <see cref="LoadAsync"/>, of a file that cannot be written.</exception>
    public async Task<DriveCopyResult> SaveAsync(
        DeviceObject o, string path, bool deniesStaging, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(o);
        await drive.WaitReadyAsync(cancellation).ConfigureAwait(false);
        using WholeFile file = WholeFile.Create(path, (long)o.SizeBytes);
        string self = string.Create(
            CultureInfo.InvariantCulture, $"/proc/self/fd/{file.Handle.DangerousGetHandle()}");
        NvmeNamespace target = drive.Open(self, isWritable: true, (long)o.SizeBytes);
        DriveCopyResult result;
        try
        {
            result = await MoveAsync(o, target, NvmeOpcode.Write, $"copy {o} to {path}", deniesStaging, cancellation)
                .ConfigureAwait(false);
        }
        finally
        {
            drive.Close(target);
        }

        file.Truncate((long)o.SizeBytes); // the last block was written whole
        file.Publish();
        return result;
    }

    private async Task<DriveCopyResult> MoveAsync(
        DeviceObject o,
        NvmeNamespace medium,
        NvmeOpcode opcode,
        string operation,
        bool deniesStaging,
        CancellationToken cancellation)
    {
        PeerVerdict verdict = host.VerdictFor(o.Owner, drive.Function);
        bool isPinned = o.Memory is not GpuObjectMemory;
        bool isThere = PlaceOf(o) == ObjectPlace.System; // evicted before: nothing has to be taken out of its way
        bool stages = !verdict.IsSupported && !isThere;
        if (stages && (deniesStaging || isPinned))
        {
            throw new WayleaveException(
                Errno.EREMOTEIO,
                operation,
                verdict.Refusal,
                isPinned
                    ? $"place the drive elsewhere: memory of {o.Device} stays where it is"
                    : "allow staging, or place the drive elsewhere");
        }

        long start = Stopwatch.GetTimestamp();
        if (stages)
        {
            await host.Objects.EvictAsync(o).ConfigureAwait(false);
        }

        ulong staged = 0;
        using IDisposable use = drive.Presence.Use(operation);
        DriveMove move = new(host, drive, o.Buffer, medium, opcode, o.SizeBytes)
        {
            Operation = operation,
            StallMax = StallMax,
            Moved = stages ? bytes => Interlocked.Add(ref staged, bytes) : null,
        };
        try
        {
            await move.RunAsync(cancellation).ConfigureAwait(false);
        }
        catch (WayleaveException e) when (!o.Owner.Presence.IsPresent || !drive.Presence.IsPresent)
        {
            throw (drive.Presence.IsPresent ? o.Owner.Presence : drive.Presence).Gone(operation, e);
        }
        finally
        {
            host.CountStaged(staged);
            if (stages)
            {
                await RestoreAsync(o).ConfigureAwait(false);
            }
        }

        return new DriveCopyResult(o.SizeBytes, staged, verdict, Stopwatch.GetElapsedTime(start));
    }

    // An object that cannot come back is whole where it is, and more important is how the copy went.
    private async Task RestoreAsync(DeviceObject o)
    {
        try
        {
            await host.Objects.RestoreAsync(o).ConfigureAwait(false);
        }
        catch (WayleaveException e)
        {
            host.Context.Trace("drive_copy.not_restored", e.Message);
        }
    }

    private ObjectPlace PlaceOf(DeviceObject o)
    {
        using (host.Context.Enter())
        {
            return o.Placement;
        }
    }
}
