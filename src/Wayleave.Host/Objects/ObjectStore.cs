using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Removal;
using Wayleave.Host.Runners;

namespace Wayleave.Host.Objects;

/// <summary>
/// The named device memory of a host. Members take the host lock themselves; an awaiting member holds no lock while it
/// waits.
/// </summary>
public sealed class ObjectStore
{
    private readonly HostContext _host;
    private readonly IReadOnlyList<IObjectDevice> _devices;
    private readonly OwnerAccess _access;
    private readonly TimeProvider _clock;
    private readonly Dictionary<ulong, DeviceObject> _objects = []; // all that are not Revoked; host lock
    private RetirementCounts _retirements = new(); // host lock

    internal ObjectStore(
        HostContext host, PciFabric fabric, IReadOnlyList<IObjectDevice> devices, TimeProvider clock)
    {
        _host = host;
        _devices = devices;
        _clock = clock;
        _access = new OwnerAccess(host, fabric);
    }

    /// <summary>Ends whatever the host itself has lent an object for; set once, by the host.</summary>
    internal Func<DeviceObject, Task>? EndUses { get; set; }

    /// <summary>
    /// Makes an object that nobody finds by its name until <see cref="CommitAsync"/>. Its memory is cleared. When VRAM
    /// is full the least recently used movable objects are evicted first.
    /// </summary>
    /// <param name="device">By its name.</param>
    /// <param name="name">Of the object.</param>
    /// <param name="sizeBytes">Positive.</param>
    /// <param name="storage">Null for what the device has.</param>
    /// <param name="cancellation">Ends the wait for room.</param>
    /// <exception cref="WayleaveException">
    /// No such device, a bad name or size, a kind that the device has not, or no room; says which and what to do.
    /// </exception>
    public async Task<DeviceObject> CreateAsync(
        string device, string name, ulong sizeBytes, StorageKind? storage, CancellationToken cancellation = default)
    {
        IObjectDevice owner = FindDevice(device);
        string operation = $"create {device}/{name} of {ByteSize.ToText((long)sizeBytes)}";
        if (WlUrl.DescribeProblemOfName(name, "object") is { } problem)
        {
            throw new WayleaveException(Errno.EINVAL, operation, problem);
        }

        if (sizeBytes is 0 or > long.MaxValue)
        {
            throw new WayleaveException(Errno.EINVAL, operation, "an object has at least one byte");
        }

        StorageKind kind = storage ?? owner.DefaultStorage;
        if (!owner.CanStore(kind))
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP,
                operation,
                $"{device} has no {Word(kind)} memory",
                $"ask for {Word(owner.DefaultStorage)} memory, or for none in particular");
        }

        using IDisposable use = owner.Presence.Use(operation);
        ObjectMemory memory = await owner
            .TakeAsync(new ObjectRequest(name, sizeBytes, kind), operation, cancellation).ConfigureAwait(false);
        using (_host.Enter())
        {
            DeviceObject made = new(_host.AllocateId(), owner, name, memory, _clock.GetUtcNow());
            _objects.Add(made.Id, made);
            return made;
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
            made.Memory.Free(policy);
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
                .MinBy(o => o.Memory.IsFreed);
        }
    }

    /// <summary>
    /// A window to a file of a drive, by the name that the file will have; null when nobody writes it.
    /// </summary>
    public DeviceObject? FindWindow(string device, string name)
    {
        using (_host.Enter())
        {
            return _objects.Values.FirstOrDefault(o =>
                o.Memory is ResourceObjectMemory && o.State == ObjectState.Writing && !o.Memory.IsFreed
                && o.Device == device && o.Name == name);
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

    /// <summary>How often memory was taken back so far, and with what proof. Host lock held.</summary>
    internal RetirementCounts Retirements => _retirements;

    /// <summary>What the host tried for itself before it was ready is not among its users' revokes.</summary>
    internal void StartCounting()
    {
        using (_host.Enter())
        {
            _retirements = new RetirementCounts();
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
        if (o.Storage == StorageKind.Static && EndUses is { } endUses)
        {
            await endUses(o).ConfigureAwait(false); // its device tells nobody: who uses it lets go first
        }

        RevokeOperation? operation = null;
        RetirementProof proof = await OwnerWait.AwaitAsync(_host, () =>
        {
            _retirements.Begin(o);
            return operation = o.Memory.Free(policy);
        }).ConfigureAwait(false);
        using (_host.Enter())
        {
            // Evidence may have come between the proof and this lock; and memory that somebody else asked more for than
            // this policy waits for that.
            // Whoever takes it back again waits for the same release, which is one.
            o.IsReleaseAwaited =
                o.IsReleaseAwaited || o.Memory.Held?.TryAddRelease(() => HandleLateRetirement(o)) == true;
            bool isQuarantined = o.IsReleaseAwaited;
            proof = operation?.Proof ?? proof;
            _retirements.End(o, proof.Grade);
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
        await ForEachPieceAsync(o, (_, bytes) => hash.AppendData(bytes), cancellation).ConfigureAwait(false);
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    /// <summary>Looks at, or changes, the bytes of an object as its owner.</summary>
    public Task ForEachPieceAsync(DeviceObject o, PieceHandler handler, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(o);
        return ReachAsync(o, _access.ForEachPieceAsync(o.Memory, 0, o.SizeBytes, handler, cancellation));
    }

    /// <summary>
    /// The bytes of every object of a device have changed: what they hashed to says nothing any more.
    /// </summary>
    public void ForgetDigests(IObjectDevice device)
    {
        using (_host.Enter())
        {
            foreach (DeviceObject o in _objects.Values.Where(o => ReferenceEquals(o.Owner, device)))
            {
                o.Sha256 = null;
            }
        }
    }

    /// <summary>As the other, of a part.</summary>
    public Task ForEachPieceAsync(
        DeviceObject o, ulong offset, ulong lengthBytes, PieceHandler handler, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(o);
        return ReachAsync(o, _access.ForEachPieceAsync(o.Memory, offset, lengthBytes, handler, cancellation));
    }

    /// <summary>As the other, of several parts, in the order in which they are named.</summary>
    public Task ForEachRangeAsync(
        DeviceObject o,
        IReadOnlyList<(ulong Offset, ulong LengthBytes)> ranges,
        PieceHandler handler,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(o);
        return ReachAsync(o, _access.ForEachRangeAsync(o.Memory, ranges, handler, cancellation));
    }

    private static Task ReachAsync(DeviceObject o, Task access) => o.Owner.Presence.WatchAsync($"reach {o}", access);

    private static bool IsReady(DeviceObject o, string device, string name) =>
        o.State == ObjectState.Ready && o.Device == device && o.Name == name;

    private async Task MoveAsync(DeviceObject o, GpuDomain target)
    {
        ArgumentNullException.ThrowIfNull(o);
        string verb = target == GpuDomain.Vram ? "restore" : "evict";
        if (o.Memory is not GpuObjectMemory { Buffer: { } buffer } || o.Owner is not GpuHandle gpu)
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP,
                $"{verb} {o}",
                $"memory of {o.Device} stays where it is",
                "only objects of GPUs move");
        }

        MoveOperation move;
        using (_host.Enter())
        {
            move = gpu.Device.Move(buffer, target);
        }

        await gpu.WaitAsync(move).ConfigureAwait(false);
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

    private void HandleLateRetirement(DeviceObject o)
    {
        using (_host.Enter())
        {
            o.Proof = o.Memory.Freeing!.Proof;
            o.IsReleaseAwaited = false;
            _retirements.Release();
            o.State = ObjectState.Revoked;
            _objects.Remove(o.Id);
        }
    }

    // One whose revoke is under way is lost already, whatever its state still says.
    private static void ThrowUnless(DeviceObject made, bool isOpen)
    {
        if (!isOpen || made.Memory.IsFreed)
        {
            string reason = isOpen ? "it is being taken back" : $"it is {made.State}";
            throw new WayleaveException(Errno.ENODEV, $"commit {made}", reason, "start the transfer again");
        }
    }

    private IObjectDevice FindDevice(string device) =>
        _devices.FirstOrDefault(g => g.Name == device && g.Presence.State != DevicePresenceState.Gone)
        ?? throw new WayleaveException(
            Errno.ENODEV,
            $"find device {device}",
            "this host has no such device with memory",
            $"it has {string.Join(", ", _devices.Where(g => g.Presence.IsPresent).Select(g => g.Name))}");

    private static string Word(StorageKind storage) => storage.ToString().ToLowerInvariant();
}
