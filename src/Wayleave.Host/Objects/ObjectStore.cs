using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Runners;

namespace Wayleave.Host.Objects;

/// <summary>
/// The named device memory of a host. Members take the host lock themselves; an awaiting member holds no lock while it
/// waits.
/// </summary>
public sealed class ObjectStore
{
    private readonly HostContext _host;
    private readonly IReadOnlyList<GpuHandle> _gpus;
    private readonly OwnerAccess _access;
    private readonly TimeProvider _clock;
    private readonly Dictionary<ulong, DeviceObject> _objects = []; // all that are not Revoked; host lock

    internal ObjectStore(HostContext host, PciFabric fabric, IReadOnlyList<GpuHandle> gpus, TimeProvider clock)
    {
        _host = host;
        _gpus = gpus;
        _clock = clock;
        _access = new OwnerAccess(host, fabric);
    }

    /// <summary>
    /// Makes an object that nobody finds by its name until <see cref="CommitAsync"/>. Its memory is cleared. When VRAM
    /// is full the least recently used movable objects are evicted first.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// No such device, a bad name or size, or no room; says which and what to do.
    /// </exception>
    public async Task<DeviceObject> CreateAsync(
        string device, string name, ulong sizeBytes, StorageKind storage, CancellationToken cancellation = default)
    {
        GpuHandle gpu = FindGpu(device);
        string operation = $"create {device}/{name} of {ByteSize.ToText((long)sizeBytes)}";
        if (WlUrl.DescribeProblemOfName(name, "object") is { } problem)
        {
            throw new WayleaveException(Errno.EINVAL, operation, problem);
        }

        if (sizeBytes == 0)
        {
            throw new WayleaveException(Errno.EINVAL, operation, "an object has at least one byte");
        }

        while (true)
        {
            cancellation.ThrowIfCancellationRequested();
            Errno errno;
            IReadOnlyList<MoveOperation> evictions = [];
            using (_host.Enter())
            {
                errno = gpu.Device.TryCreate(new GpuBufferInfo(name, sizeBytes, storage), out GpuBuffer? buffer);
                if (buffer is not null)
                {
                    DeviceObject made = new(_host.AllocateId(), gpu, name, buffer, _clock.GetUtcNow());
                    _objects.Add(made.Id, made);
                    return made;
                }

                if (errno == Errno.ENOSPC)
                {
                    errno = gpu.Device.TryMakeRoom(sizeBytes, out evictions);
                }
            }

            if (errno is not (Errno.Success or Errno.EAGAIN) || (errno == Errno.Success && evictions.Count == 0))
            {
                throw NoRoom(errno == Errno.Success ? Errno.ENOSPC : errno, operation, gpu);
            }

            foreach (MoveOperation eviction in evictions)
            {
                await WaitAsync(eviction).ConfigureAwait(false);
            }

            if (errno == Errno.EAGAIN)
            {
                await Task.Yield();
            }
        }
    }

    /// <summary>
    /// The writer is done. From here on <see cref="AbortAsync"/> does nothing: the caller checks the content, then ends
    /// with <see cref="CommitAsync"/> or <see cref="RevokeAsync"/>.
    /// </summary>
    /// <exception cref="WayleaveException">ENODEV: it was committed, revoked or aborted before.</exception>
    public void BeginCommit(DeviceObject made)
    {
        ArgumentNullException.ThrowIfNull(made);
        using (_host.Enter())
        {
            ThrowUnless(made, made.State == ObjectState.Writing);
            made.State = ObjectState.Committing;
        }
    }

    /// <summary>
    /// Gives the object its name. An older object of that name is taken back first, so that nobody who still writes to
    /// the old one reaches the new one.
    /// </summary>
    /// <exception cref="WayleaveException">ENODEV: it was revoked or aborted meanwhile.</exception>
    public async Task CommitAsync(DeviceObject made, string? sha256)
    {
        ArgumentNullException.ThrowIfNull(made);
        DeviceObject[] older;
        using (_host.Enter())
        {
            ThrowUnless(made, made.State is ObjectState.Writing or ObjectState.Committing);

            // Another commit of the name may still be taking its own predecessor back: then there are two.
            older = [.. _objects.Values.Where(o => IsReady(o, made.Device, made.Name))];
            made.State = ObjectState.Ready;
            made.Sha256 = sha256;
        }

        foreach (DeviceObject replaced in older)
        {
            await RevokeAsync(
                replaced, new RevokePolicy { Reason = $"replaced by a new {made}" }).ConfigureAwait(false);
        }
    }

    /// <summary>Gives up an object whose commit has not begun; does nothing for any other.</summary>
    public async Task AbortAsync(DeviceObject made, string reason)
    {
        ArgumentNullException.ThrowIfNull(made);
        RevokePolicy policy = new() { Reason = reason };
        using (_host.Enter())
        {
            if (made.State != ObjectState.Writing)
            {
                return;
            }

            // In the same hold of the lock as the question, or a commit could come between the two.
            made.Gpu.Device.Free(made.Buffer, policy);
        }

        await RevokeAsync(made, policy).ConfigureAwait(false);
    }

    /// <summary>
    /// An object by its name, if it is ready; one that is being taken back only when there is no other.
    /// </summary>
    public DeviceObject? Find(string device, string name)
    {
        using (_host.Enter())
        {
            return _objects.Values
                .Where(o => IsReady(o, device, name))
                .MinBy(o => o.Buffer.IsFreed);
        }
    }

    /// <summary>An object by its number, in whatever state.</summary>
    public DeviceObject? Find(ulong id)
    {
        using (_host.Enter())
        {
            return _objects.GetValueOrDefault(id);
        }
    }

    /// <summary>Everything that holds memory, in order of device and name.</summary>
    public IReadOnlyList<DeviceObject> List()
    {
        using (_host.Enter())
        {
            return
            [
                .. _objects.Values.OrderBy(o => o.Device, StringComparer.Ordinal)
                    .ThenBy(o => o.Name, StringComparer.Ordinal)
                    .ThenBy(o => o.Id),
            ];
        }
    }

    /// <summary>Moves an object to system memory and waits until the copy is done.</summary>
    /// <exception cref="WayleaveException">Pinned, revoked, not movable or no room; says which.</exception>
    public Task EvictAsync(DeviceObject o) => MoveAsync(o, GpuDomain.System);

    /// <summary>Moves an object to VRAM and waits until the copy is done.</summary>
    /// <exception cref="WayleaveException">Pinned, revoked, not movable or no room; says which.</exception>
    public Task RestoreAsync(DeviceObject o) => MoveAsync(o, GpuDomain.Vram);

    /// <summary>
    /// Takes an object back: its keys die, its users drain, its memory returns to the allocator when the proof
    /// satisfies the policy and stays in quarantine until then.
    /// </summary>
    public async Task<RetirementProof> RevokeAsync(DeviceObject o, RevokePolicy policy)
    {
        ArgumentNullException.ThrowIfNull(o);
        RevokeOperation? operation = null;
        RetirementProof proof = await OwnerWait
            .AwaitAsync(_host, () => operation = o.Gpu.Device.Free(o.Buffer, policy)).ConfigureAwait(false);
        using (_host.Enter())
        {
            // Evidence may have come between the proof and this lock; and memory that somebody else asked more for than
            // this policy waits for that.
            bool isQuarantined = o.Buffer.Held?.TryAddRelease(() => HandleLateRetirement(o)) == true;
            proof = operation?.Proof ?? proof;
            o.Proof = proof;
            o.State = isQuarantined ? ObjectState.Quarantined : ObjectState.Revoked;
            if (!isQuarantined)
            {
                _objects.Remove(o.Id);
            }
        }

        return proof;
    }

    /// <summary>
    /// The SHA-256 of the bytes as they are now, read piece by piece as the owner; lower-case hexadecimal.
    /// </summary>
    public async Task<string> Sha256Async(DeviceObject o, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(o);
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        await _access.ForEachPieceAsync(
            o.Buffer, 0, o.SizeBytes, (_, bytes) => hash.AppendData(bytes), cancellation).ConfigureAwait(false);
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    /// <summary>Looks at, or changes, the bytes of an object as its owner.</summary>
    public Task ForEachPieceAsync(DeviceObject o, PieceHandler handler, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(o);
        return _access.ForEachPieceAsync(o.Buffer, 0, o.SizeBytes, handler, cancellation);
    }

    private static bool IsReady(DeviceObject o, string device, string name) =>
        o.State == ObjectState.Ready && o.Device == device && o.Name == name;

    private async Task MoveAsync(DeviceObject o, GpuDomain target)
    {
        ArgumentNullException.ThrowIfNull(o);
        MoveOperation move;
        using (_host.Enter())
        {
            move = o.Gpu.Device.Move(o.Buffer, target);
        }

        await WaitAsync(move).ConfigureAwait(false);
        string verb = target == GpuDomain.Vram ? "restore" : "evict";
        move.Error.ThrowIfFailed($"{verb} {o}", move.Error switch
        {
            Errno.EBUSY => "a pinned region holds it in place; end the lease or revoke it",
            Errno.ENOSPC or Errno.ENOMEM => "free memory there first: wayleave ls shows who has it",
            Errno.EOPNOTSUPP => "only movable objects move",
            _ => null,
        });
        using (_host.Enter())
        {
            o.Moves += move.Fence is null ? 0 : 1;
        }
    }

    private async Task WaitAsync(MoveOperation move)
    {
        TaskCompletionSource ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using (_host.Enter())
        {
            if (!move.TryAddCompletion(ended.SetResult))
            {
                return;
            }
        }

        await ended.Task.ConfigureAwait(false);
    }

    private void HandleLateRetirement(DeviceObject o)
    {
        using (_host.Enter())
        {
            o.Proof = o.Buffer.Freeing!.Proof;
            o.State = ObjectState.Revoked;
            _objects.Remove(o.Id);
        }
    }

    // One whose revoke is under way is lost already, whatever its state still says.
    private static void ThrowUnless(DeviceObject made, bool isOpen)
    {
        if (!isOpen || made.Buffer.IsFreed)
        {
            string reason = isOpen ? "it is being taken back" : $"it is {made.State}";
            throw new WayleaveException(Errno.ENODEV, $"commit {made}", reason, "start the transfer again");
        }
    }

    private GpuHandle FindGpu(string device) =>
        _gpus.FirstOrDefault(g => g.Name == device)
        ?? throw new WayleaveException(
            Errno.ENODEV,
            $"find device {device}",
            "this host has no such GPU",
            $"it has {string.Join(", ", _gpus.Select(g => g.Name))}");

    private WayleaveException NoRoom(Errno errno, string operation, GpuHandle gpu)
    {
        GpuStats stats;
        using (_host.Enter())
        {
            stats = gpu.Device.Stats;
        }

        string free =
            $"{ByteSize.ToText((long)stats.VramFreeBytes)} of {ByteSize.ToText((long)stats.VramTotalBytes)} are free "
            + $"on {gpu.Name}";
        string held = stats.VramQuarantinedBytes == 0
            ? ""
            : $", {ByteSize.ToText((long)stats.VramQuarantinedBytes)} in quarantine";
        return new WayleaveException(
            errno, operation, free + held, "revoke an object, or start the host with a larger --vram");
    }
}
