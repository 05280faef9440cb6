using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Nvme;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Transfers;

/// <summary>What a copy between a drive and device memory did.</summary>
/// <param name="Bytes">Of the file.</param>
/// <param name="StagingBytes">Bytes that passed through system memory because there was no way to VRAM.</param>
/// <param name="Verdict">What the rules say about the way from the drive to VRAM.</param>
/// <param name="Elapsed">From the first command to the last completion, staging included.</param>
public sealed record DriveCopyResult(ulong Bytes, ulong StagingBytes, PeerVerdict Verdict, TimeSpan Elapsed);

/// <summary>
/// Copies a file into an object by a drive of this host: NVMe reads whose data pointers are addresses of VRAM. Where
/// the topology has no way for them, the file goes through system memory, is counted, and can be refused.
/// </summary>
public sealed class DriveCopy(WayleaveHost host, NvmeHandle drive)
{
    /// <summary>One command moves at most so much.</summary>
    public const int CommandBytes = NvmeControllerOptions.TransferBytesMax;

    /// <summary>Loads a file into a new object.</summary>
    /// <param name="path">The file.</param>
    /// <param name="device">The GPU.</param>
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
                .CreateAsync(device, name, length, storage: null, cancellation)
                .ConfigureAwait(false);
            try
            {
                PeerVerdict verdict = host.VerdictFor(made.Owner, drive.Function);
                string operation = $"copy {path} to {made}";
                if (!verdict.IsSupported && deniesStaging)
                {
                    throw new WayleaveException(
                        Errno.EREMOTEIO, operation, verdict.Refusal, "allow staging, or place the drive elsewhere");
                }

                long start = Stopwatch.GetTimestamp();
                if (!verdict.IsSupported)
                {
                    await host.Objects.EvictAsync(made).ConfigureAwait(false);
                }

                Action<ulong> count = verdict.IsSupported ? static _ => { } : host.CountStaged;
                await MoveAsync(made, source, NvmeOpcode.Read, length, operation, count, cancellation)
                    .ConfigureAwait(false);
                if (!verdict.IsSupported)
                {
                    await host.Objects.RestoreAsync(made).ConfigureAwait(false);
                }

                TimeSpan elapsed = Stopwatch.GetElapsedTime(start);
                host.Objects.BeginCommit(made);
                await host.Objects.CommitAsync(made, sha256: null).ConfigureAwait(false);
                return (made, new DriveCopyResult(length, verdict.IsSupported ? 0 : length, verdict, elapsed));
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

    // As many commands as the drive takes, each sent with the reservation held for a moment; between two of them a
    // mover or a revoke gets its turn, and waits for the fences of those under way.
    private async Task MoveAsync(
        DeviceObject o,
        NvmeNamespace medium,
        NvmeOpcode opcode,
        ulong length,
        string operation,
        Action<ulong> moved,
        CancellationToken cancellation)
    {
        NvmeBufferUser user = Attach(o, operation);
        using Commands commands = new();
        try
        {
            for (ulong offset = 0; offset < length && commands.Failure == Errno.Success;)
            {
                await commands.WaitForRoomAsync(cancellation).ConfigureAwait(false);
                ulong bytes = Math.Min(CommandBytes, length - offset);
                Errno errno = await StartAsync(o, user, medium, opcode, offset, bytes, HandleEnded)
                    .ConfigureAwait(false);
                if (errno == Errno.Success)
                {
                    offset += bytes;
                    continue;
                }

                commands.HandleEnded(Errno.Success); // it was never sent
                if (errno != Errno.EAGAIN)
                {
                    errno.ThrowIfFailed(operation);
                }

                await Task.Delay(1, cancellation).ConfigureAwait(false); // another copy has the slots

                void HandleEnded(Errno error)
                {
                    moved(error == Errno.Success ? bytes : 0);
                    commands.HandleEnded(error);
                }
            }
        }
        finally
        {
            await commands.WaitForAllAsync().ConfigureAwait(false);
            await DetachAsync(o, user).ConfigureAwait(false);
        }

        commands.Failure.ThrowIfFailed(operation, "start again");
    }

    private NvmeBufferUser Attach(DeviceObject o, string operation)
    {
        using (host.Context.Enter())
        {
            NvmeBufferUser.TryCreate(
                host.Context, drive.Driver, drive.Function, o.Buffer, out NvmeBufferUser? user)
                .ThrowIfFailed(operation);
            return user!;
        }
    }

    private async Task<Errno> StartAsync(
        DeviceObject o,
        NvmeBufferUser user,
        NvmeNamespace medium,
        NvmeOpcode opcode,
        ulong offset,
        ulong bytes,
        Action<Errno> ended)
    {
        Reservation reservation = o.Buffer.Reservation;
        AcquireTicket ticket;
        using (host.Context.Enter())
        {
            ticket = new AcquireTicket(host.Context, $"{drive.Name} for {o}");
        }

        await reservation.LockAsync(host.Context, ticket).ConfigureAwait(false);
        try
        {
            await reservation.WaitAsync(host.Context, ReservationUsage.Kernel, ticket).ConfigureAwait(false);
            using (host.Context.Enter())
            {
                ulong lba = offset >> medium.BlockShift;
                int blocks = (int)((bytes + (ulong)medium.BlockBytes - 1) >> medium.BlockShift);
                Errno errno = user.TryStart(ticket, opcode, medium, lba, blocks, offset, out Fence? fence);
                if (errno == Errno.Success && fence!.TryAddCallback(f => ended(f.Error)) != Errno.Success)
                {
                    throw new InvalidOperationException("a command ended before the host lock was given back");
                }

                return errno;
            }
        }
        finally
        {
            using (host.Context.Enter())
            {
                reservation.Unlock(ticket);
            }
        }
    }

    private async Task DetachAsync(DeviceObject o, NvmeBufferUser user)
    {
        Reservation reservation = o.Buffer.Reservation;
        while (true)
        {
            AcquireTicket ticket;
            using (host.Context.Enter())
            {
                ticket = new AcquireTicket(host.Context, $"{drive.Name} lets go of {o}");
            }

            await reservation.LockAsync(host.Context, ticket).ConfigureAwait(false);
            using (host.Context.Enter())
            {
                bool isIdle = user.Outstanding == 0;
                if (isIdle)
                {
                    user.DetachLocked(ticket);
                }

                reservation.Unlock(ticket);
                if (isIdle)
                {
                    return;
                }
            }

            await Task.Delay(1).ConfigureAwait(false);
        }
    }

    /// <summary>Commands under way, and the first failure among them.</summary>
    private sealed class Commands : IDisposable
    {
        private readonly SemaphoreSlim _room = new(NvmeDriver.CommandsMax);
        private int _failure;

        public Errno Failure => (Errno)Volatile.Read(ref _failure);

        public Task WaitForRoomAsync(CancellationToken cancellation) => _room.WaitAsync(cancellation);

        public void HandleEnded(Errno errno)
        {
            Interlocked.CompareExchange(ref _failure, (int)errno, (int)Errno.Success);
            _room.Release();
        }

        public async Task WaitForAllAsync()
        {
            for (int i = 0; i < NvmeDriver.CommandsMax; i++)
            {
                await _room.WaitAsync().ConfigureAwait(false);
            }
        }

        public void Dispose() => _room.Dispose();
    }
}
