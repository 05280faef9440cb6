using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Ethernet;

/// <summary>A part of one object that goes to a part of another.</summary>
internal readonly record struct GatherCopy(ulong From, ulong To, ulong LengthBytes);

/// <summary>
/// Puts pieces of one object of a GPU into their places in another by the GPU's copy engine: no byte leaves device
/// memory. Called with no lock; the reservations of both are held while copies are submitted, and not while they run.
/// </summary>
internal sealed class DeviceGather : IAsyncDisposable
{
    private readonly HostContext _host;
    private readonly CopyUser _source;
    private readonly CopyUser _target;

    private DeviceGather(HostContext host, CopyUser source, CopyUser target) =>
        (_host, _source, _target) = (host, source, target);

    /// <summary>Attaches the engine to both.</summary>
    /// <exception cref="WayleaveException">One of them does not let it.</exception>
    public static async Task<DeviceGather> OpenAsync(
        HostContext host, GpuHandle gpu, DeviceObject source, DeviceObject target)
    {
        string operation = $"gather {source} into {target}";
        CopyUser from = Attach(host, gpu, source, operation);
        try
        {
            return new DeviceGather(host, from, Attach(host, gpu, target, operation));
        }
        catch (WayleaveException)
        {
            await DetachAsync(host, from).ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Copies, and returns when all of it is there.</summary>
    /// <exception cref="WayleaveException">ENODEV: one of the two was taken back. EIO: the engine failed.</exception>
    public async Task CopyAsync(IReadOnlyList<GatherCopy> copies)
    {
        List<Fence> fences = [];
        for (int next = 0; next < copies.Count;)
        {
            int before = next;
            LockOperation locked = await LockAsync(_host, _source, _target).ConfigureAwait(false);
            Errno errno;
            using (_host.Enter())
            {
                errno = _source.TryMapLocked(locked.Ticket);
                errno = errno == Errno.Success ? _target.TryMapLocked(locked.Ticket) : errno;
                while (errno == Errno.Success && next < copies.Count)
                {
                    GatherCopy copy = copies[next];
                    errno = CopyUser.TryCopyLocked(
                        locked.Ticket, _source, copy.From, _target, copy.To, copy.LengthBytes, out Fence? fence);
                    if (errno == Errno.Success)
                    {
                        fences.Add(fence!);
                        next++;
                    }
                }

                locked.UnlockAll();
            }

            if (errno is not (Errno.Success or Errno.EAGAIN))
            {
                await AwaitAsync(fences).ConfigureAwait(false);
                errno.ThrowIfFailed($"copy from {_source.Buffer.Name} to {_target.Buffer.Name}");
            }

            // The ring is full, or one of the two moves: what is under way ends first.
            if (!await AwaitAsync(fences).ConfigureAwait(false) && next == before)
            {
                await _source.Buffer.Reservation.WaitAsync(_host, ReservationUsage.Kernel).ConfigureAwait(false);
                await _target.Buffer.Reservation.WaitAsync(_host, ReservationUsage.Kernel).ConfigureAwait(false);
                await Task.Delay(1).ConfigureAwait(false); // somebody else's copies fill the ring
            }
        }
    }

    /// <summary>The engine lets go of both. No copy is under way.</summary>
    public async ValueTask DisposeAsync()
    {
        await DetachAsync(_host, _source).ConfigureAwait(false);
        await DetachAsync(_host, _target).ConfigureAwait(false);
    }

    private static CopyUser Attach(HostContext host, GpuHandle gpu, DeviceObject o, string operation)
    {
        using (host.Enter())
        {
            CopyUser.TryCreate(gpu.Device, o.Buffer, out CopyUser? user).ThrowIfFailed(operation);
            return user!;
        }
    }

    // True when there were any.
    private async Task<bool> AwaitAsync(List<Fence> fences)
    {
        bool any = fences.Count > 0;
        Errno first = Errno.Success;
        foreach (Fence fence in fences)
        {
            await NetBinding.WhenSignaled(_host, fence).ConfigureAwait(false);
            first = first == Errno.Success ? fence.Error : first;
        }

        fences.Clear();
        if (first != Errno.Success)
        {
            // A copy is given up only because one of the two was taken back.
            first = first == Errno.ECANCELED ? Errno.ENODEV : first;
            first.ThrowIfFailed($"copy from {_source.Buffer.Name} to {_target.Buffer.Name}");
        }

        return any;
    }

    private static async Task DetachAsync(HostContext host, CopyUser user)
    {
        LockOperation locked = await LockAsync(host, user).ConfigureAwait(false);
        using (host.Enter())
        {
            user.DetachLocked(locked.Ticket);
            locked.UnlockAll();
        }
    }

    private static async Task<LockOperation> LockAsync(HostContext host, params CopyUser[] users)
    {
        TaskCompletionSource locked = new(TaskCreationOptions.RunContinuationsAsynchronously);
        LockOperation operation;
        using (host.Enter())
        {
            AcquireTicket ticket = new(host, users[^1].Name);
            operation = LockOperation.Start(host, ticket, [.. users.Select(u => u.Buffer.Reservation)]);
            if (!operation.TryAddCompletion(locked.SetResult))
            {
                locked.SetResult();
            }
        }

        await locked.Task.ConfigureAwait(false);
        operation.Errno.ThrowIfFailed($"lock for {users[^1].Name}");
        return operation;
    }
}
