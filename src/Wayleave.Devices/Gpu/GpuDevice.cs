using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu.Compute;

namespace Wayleave.Devices.Gpu;

// The reference is amdgpu over TTM (drivers/gpu/drm/ttm/ttm_bo.c; linux.md 8.3): buffers live in VRAM or in system
// memory, move between the two while importers hold attachments, and leave VRAM in the order of their last use.
//
//   TryCreate --> clear (KERNEL fence) --> in use --Evict/Restore--> in use --Free--> revoke --> quarantine --> free

/// <summary>
/// A software GPU: its memory, its buffers and its copy engine. Host lock held by the caller, unless a member says
/// otherwise; the bytes move only when somebody drives <see cref="CopyEngine"/>.
/// </summary>
public sealed class GpuDevice : IPeerMemoryOwner
{
    /// <summary>The number of the BAR that VRAM answers at.</summary>
    public const int VramBar = 0;

    private readonly GpuOptions _options;
    private readonly GpuStorage _storage;
    private readonly LinkedList<GpuBuffer> _byUse = new(); // least recently used first
    private readonly List<MoveOperation> _moves = []; // those under way
    private long _evictions;
    private long _restores;
    private ulong _movedBytes;
    private ulong _clearedBytes;

    /// <param name="host">The host this device is part of.</param>
    /// <param name="fabric">
    /// Where the memory becomes reachable: VRAM as this function's BAR 0, the rest as system memory.
    /// </param>
    /// <param name="function">The device's identity.</param>
    /// <param name="options">Copied.</param>
    /// <param name="vram">
    /// The device's memory; each window less than 2 GiB and a multiple of the granularity. Kept alive by the caller.
    /// </param>
    /// <param name="systemMemory">What evicted buffers may take; as <paramref name="vram"/>.</param>
    /// <exception cref="ArgumentException">An option or a window is out of range.</exception>
    public GpuDevice(
        HostContext host,
        PciFabric fabric,
        PciFunction function,
        GpuOptions options,
        IReadOnlyList<Memory<byte>> vram,
        IReadOnlyList<Memory<byte>> systemMemory)
    {
        host.AssertHeld();
        options.Validate();
        (Host, Function, _options) = (host, function, options);
        Fabric = fabric;
        fabric.Plug(function);
        _storage = new GpuStorage(fabric, function, options, vram, systemMemory);
        CopyEngine = new CopyEngine(host, new DmaPort(function, isPermanent: true), options);
        HangDetector hangs = new(host, options.ComputeTimeout, options.ComputeStopGrace);
        QueueEngine make(GpuEngineKind kind) =>
            new(host, new DmaPort(function, isPermanent: true), options, kind, hangs, UserProgress);
        (ComputeEngine, CopyQueueEngine) = (make(GpuEngineKind.Compute), make(GpuEngineKind.Copy));
        QueueEngines = [ComputeEngine, CopyQueueEngine];
        Quarantine = new Quarantine(host, options.QuarantineLimits);
        function.PeerDevice?.SetMemoryOwner(this);
    }

    public HostContext Host { get; }

    public PciFabric Fabric { get; }

    public PciFunction Function { get; }

    public CopyEngine CopyEngine { get; }

    /// <summary>Runs the commands of queues, whatever they are.</summary>
    public QueueEngine ComputeEngine { get; }

    /// <summary>
    /// Runs the copies that programs put into queues, beside the compute engine; <see cref="CopyEngine"/> runs those of
    /// the device's own.
    /// </summary>
    public QueueEngine CopyQueueEngine { get; }

    /// <summary>Both, which have one <see cref="QueueEngine.Hangs"/>.</summary>
    public IReadOnlyList<QueueEngine> QueueEngines { get; }

    /// <summary>What they tell each other.</summary>
    internal UserProgress UserProgress { get; } = new();

    /// <summary>
    /// Storage that may still be in use: of freed buffers whose revoke has not retired, and old places of moves whose
    /// users were not seen to leave.
    /// </summary>
    public Quarantine Quarantine { get; }

    /// <summary>Buffers that are not freed, least recently used first.</summary>
    public IReadOnlyCollection<GpuBuffer> Buffers => _byUse;

    /// <summary>
    /// Addresses of the system memory that evicted buffers may take, a range for each of its windows.
    /// </summary>
    public IReadOnlyList<DeviceRange> SystemWindows => _storage.SystemWindows;

    /// <summary>
    /// Where pages of processes migrate to that its queues fault on; null while they stay where they are. Set by
    /// <see cref="GpuProcessMemory.TryCreate"/>.
    /// </summary>
    public GpuProcessMemory? ProcessMemory { get; internal set; }

    /// <summary>The allocator of a domain, for looking at.</summary>
    public BlockAllocator Memory(GpuDomain domain) => _storage.Memory(domain);

    public GpuStats Stats => _storage.Count(new GpuStats
    {
        Buffers = _byUse.Count,
        Moves = _evictions + _restores,
        Evictions = _evictions,
        Restores = _restores,
        MovedBytes = _movedBytes,
        ClearedBytes = _clearedBytes,
        CopyJobs = CopyEngine.QueuedCount,
    });

    /// <summary>
    /// Makes a buffer. Its bytes are zero once its KERNEL fence has signalled, for which every importer waits; one that
    /// could not be cleared is taken back before that.
    /// </summary>
    /// <param name="info">What it is to be.</param>
    /// <param name="buffer">Owned by the caller until <see cref="Free"/>.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for a size of zero, a name that is too long or an alignment that is no power of two;
    /// <see cref="Errno.ENOSPC"/> when VRAM and <see cref="Errno.ENOMEM"/> when system memory is full (see
    /// <see cref="TryMakeRoom"/>); <see cref="Errno.EAGAIN"/> when the copy engine's ring is full.
    /// </returns>
    public Errno TryCreate(GpuBufferInfo info, out GpuBuffer? buffer)
    {
        Host.AssertHeld();
        buffer = null;
        if (!SharedBuffer.IsName(info.Name))
        {
            return Errno.EINVAL;
        }

        if (!CopyEngine.HasRoom)
        {
            return CopyEngine.Refusal;
        }

        Errno errno = _storage.TryPlace(
            info.Domain, info.SizeBytes, info.AlignmentBytes, info.Name, out GpuPlacement? placement);
        if (errno != Errno.Success)
        {
            return errno;
        }

        buffer = new GpuBuffer(this, info, placement!) { LastUsedAt = Host.Now };
        _byUse.AddLast(buffer.UseNode);
        if (_options.ClearsNewBuffers)
        {
            Clear(buffer);
        }

        return Errno.Success;
    }

    /// <summary>Moves a buffer to system memory. Ask the operation how it went.</summary>
    public MoveOperation Evict(GpuBuffer buffer) => Move(buffer, GpuDomain.System);

    /// <summary>
    /// Moves a buffer to VRAM that peers reach. It does not evict others: see <see cref="TryMakeRoom"/>.
    /// </summary>
    public MoveOperation Restore(GpuBuffer buffer) => Move(buffer, GpuDomain.Vram);

    /// <summary>Moves a buffer; a move to where it is does nothing and succeeds.</summary>
    public MoveOperation Move(GpuBuffer buffer, GpuDomain target)
    {
        Host.AssertHeld();
        MoveOperation operation = new(buffer, target);
        _moves.Add(operation);
        operation.Start();
        return operation;
    }

    /// <summary>
    /// Evicts the least recently used buffers until <paramref name="sizeBytes"/> of VRAM are free or becoming free.
    /// Buffers that are not movable, pinned, revoked, or mapped by somebody who cannot be told stay.
    /// </summary>
    /// <param name="sizeBytes">What is needed.</param>
    /// <param name="evictions">
    /// Wait for these, then ask again; empty when there is room now. Evictions that were under way are among them.
    /// </param>
    /// <returns>
    /// <see cref="Errno.ENOSPC"/> when no eviction would help, and <see cref="Errno.ENOMEM"/> when system memory could
    /// not take the buffers; nothing was started then.
    /// </returns>
    public Errno TryMakeRoom(ulong sizeBytes, out IReadOnlyList<MoveOperation> evictions)
    {
        Host.AssertHeld();
        Host.Checker.MightReclaim("room in VRAM");
        List<MoveOperation> pending = [.. _moves.Where(m => m.Target == GpuDomain.System)];
        evictions = pending;
        ulong size = sizeBytes + ((0 - sizeBytes) & ((ulong)_options.GranularityBytes - 1));
        ulong free = Memory(GpuDomain.Vram).FreeBytes;
        if (size <= free)
        {
            evictions = [];
            return Errno.Success;
        }

        ulong coming = free;
        foreach (MoveOperation move in pending)
        {
            coming += move.Buffer.Placement.StorageBytes;
        }

        List<GpuBuffer> victims = [];
        ulong victimBytes = 0;
        foreach (GpuBuffer buffer in _byUse)
        {
            if (coming + victimBytes >= size)
            {
                break;
            }

            if (CanEvict(buffer))
            {
                victims.Add(buffer);
                victimBytes += buffer.Placement.StorageBytes;
            }
        }

        if (coming + victimBytes < size)
        {
            return Errno.ENOSPC;
        }

        if (victimBytes > Memory(GpuDomain.System).FreeBytes)
        {
            return Errno.ENOMEM;
        }

        foreach (GpuBuffer victim in victims)
        {
            pending.Add(Evict(victim));
        }

        return Errno.Success;
    }

    /// <summary>
    /// The owner gives a buffer up: everybody is told to stop, copies under way stop at the next block, and the storage
    /// is handed out again once the revoke has retired, never before. Until then it is in <see cref="Quarantine"/>. A
    /// policy that asks for less than <see cref="RetirementGrade.Drained"/> gets that.
    /// </summary>
    /// <returns>
    /// The operation of this policy. A second call with the same policy, or after the storage was given back, returns
    /// the first operation; one with another policy starts its own, and the storage waits for both: who asks for less
    /// does not loosen what somebody else asked for.
    /// </returns>
    public RevokeOperation Free(GpuBuffer buffer, RevokePolicy policy)
    {
        Host.AssertHeld();
        bool asksTooLittle = policy.RequiredGrade < _options.ReleaseGradeMin;
        policy = asksTooLittle ? policy with { RequiredGrade = _options.ReleaseGradeMin } : policy;
        if (buffer.Freeing is { } first)
        {
            return FreeAgain(buffer, first, policy);
        }

        _byUse.Remove(buffer.UseNode);
        RevokeOperation operation = RevokeOperation.Start(buffer.Shared, policy);
        buffer.Freeing = operation;
        foreach (CopyJob job in CopyEngine.Jobs)
        {
            if (job.Fence.Context == buffer.Timeline.Context)
            {
                job.Cancel();
            }
        }

        // The old place of a move that is under way is not part of this: its copy's end gives it back.
        GpuPlacement placement = buffer.Placement;
        _storage.SetQuarantined(placement);
        if (_options.WaitsForProof)
        {
            buffer.Held = Quarantine.Hold(operation, NameOf(buffer, placement), placement.StorageBytes, () =>
            {
                _storage.GiveBack(placement);
                buffer.Shared.Release(); // the last attachment lets go of it, if there is one
            });
        }
        else
        {
            _storage.GiveBack(placement);
        }

        return operation;
    }

    /// <summary>
    /// A process starts to use the compute engine. Owned by the caller until <see cref="GpuProcess.Close"/>.
    /// </summary>
    /// <param name="name">For people and proofs: <c>process 4711</c>.</param>
    public GpuProcess OpenProcess(string name)
    {
        Host.AssertHeld();
        return new GpuProcess(this, name);
    }

    bool IPeerMemoryOwner.Allocates(PciBar bar) => ReferenceEquals(bar.Owner, Function) && bar.Index == VramBar;

    Errno IPeerMemoryOwner.TryLend(string name, ulong sizeBytes, out SharedBuffer? buffer)
    {
        Errno errno = TryCreate(new GpuBufferInfo(name, sizeBytes, StorageKind.Revocable), out GpuBuffer? made);
        buffer = made?.Shared;
        return errno;
    }

    RevokeOperation IPeerMemoryOwner.TakeBack(SharedBuffer buffer, RevokePolicy policy) =>
        Free((GpuBuffer)buffer.Exporter, policy);

    internal bool WaitsForFences => _options.WaitsForFences;

    internal int ComputeBlockBytes => _options.ComputeBlockBytes;

    internal bool StopsQueues => _options.StopsQueues;

    internal bool AwaitsEveryEngine => _options.AwaitsEveryEngine;

    internal bool LooksAgain => _options.LooksAgain;

    internal QueueEngine EngineFor(GpuEngineKind kind) =>
        kind == GpuEngineKind.Copy ? CopyQueueEngine : ComputeEngine;

    internal bool WaitsInNotifier => _options.WaitsInNotifier;

    internal int FaultAheadPages => _options.FaultAheadPages;

    internal bool ReachesPrivatePages => _options.ReachesPrivatePages;

    /// <summary>The bytes behind addresses of the BAR. False unless they are in one window of it.</summary>
    internal bool TryFindBytes(DeviceRange range, out Memory<byte> bytes) => _storage.TryFindBytes(range, out bytes);

    internal Compute.MirrorDefences MirrorDefences => _options.MirrorDefences;

    internal bool PinsInHostMemory => _options.PinPolicy == GpuPinPolicy.HostMemory;

    /// <summary>
    /// Moves a buffer in the hold of the reservation that the caller of an exporter operation has. On success the
    /// buffer is there, and its bytes follow behind a KERNEL fence.
    /// </summary>
    internal Errno MoveLocked(GpuBuffer buffer, GpuDomain target)
    {
        AcquireTicket holder = buffer.Shared.Reservation.Owner
            ?? throw new InvalidOperationException($"{buffer} is pinned or mapped without its reservation");
        MoveOperation operation = new(buffer, target);
        _moves.Add(operation);
        operation.StartLocked(holder);
        return operation.State == MoveState.Refused ? operation.Error : Errno.Success;
    }

    internal void Touch(GpuBuffer buffer)
    {
        buffer.LastUsedAt = Host.Now;
        if (!buffer.IsFreed)
        {
            _byUse.Remove(buffer.UseNode);
            _byUse.AddLast(buffer.UseNode);
        }
    }

    internal Errno TryPlace(GpuBuffer buffer, GpuDomain domain, out GpuPlacement? placement) =>
        _storage.TryPlace(domain, buffer.SizeBytes, buffer.AlignmentBytes, buffer.Shared.Name, out placement);

    /// <summary>
    /// Gives the old place of a move back once the work behind all <paramref name="fences"/> has ended; until then it
    /// is in quarantine.
    /// </summary>
    internal void GiveBackAfter(GpuBuffer buffer, IReadOnlyList<Fence> fences, GpuPlacement placement)
    {
        _storage.SetQuarantined(placement);
        if (_options.WaitsForProof)
        {
            Quarantine.Hold(
                fences, NameOf(buffer, placement), placement.StorageBytes, () => _storage.GiveBack(placement));
        }
        else
        {
            _storage.GiveBack(placement);
        }
    }

    /// <summary>Gives back a place that no buffer was moved to.</summary>
    internal void GiveBackUnused(GpuPlacement placement) => _storage.GiveBack(placement);

    /// <summary>
    /// Somebody may reach the old place of a move by pages that the edge cannot take out: it is lost.
    /// </summary>
    internal void KeepForGood(GpuBuffer buffer, GpuPlacement placement, Errno errno)
    {
        Host.Trace("gpu.place_lost", NameOf(buffer, placement), (long)placement.StorageBytes, (long)errno);
        _storage.SetQuarantined(placement);
    }

    /// <summary>
    /// The bytes at the buffer's place are not its own and never will be: nobody reaches them. Before the fence signals
    /// that everybody waits for.
    /// </summary>
    internal void TakeBackLost(GpuBuffer buffer, string reason)
    {
        if (buffer.IsFreed || !_options.TakesBackWhatIsLost)
        {
            return;
        }

        // The revoke waits for the fence, and the fence not for the revoke.
        using SignalingSection suspended = SignalingSection.Suspend();
        Free(buffer, new RevokePolicy { Reason = reason });
    }

    internal void HandleMoveEnded(MoveOperation move)
    {
        _moves.Remove(move);
        if (move.State != MoveState.Moved || move.Fence is null)
        {
            return;
        }

        _movedBytes += move.Buffer.SizeBytes;
        (_evictions, _restores) = move.Target == GpuDomain.System
            ? (_evictions + 1, _restores)
            : (_evictions, _restores + 1);
    }

    private static string NameOf(GpuBuffer buffer, GpuPlacement placement) => $"{buffer.Name} in {placement.Domain}";

    private RevokeOperation FreeAgain(GpuBuffer buffer, RevokeOperation first, RevokePolicy policy)
    {
        if (policy == first.Policy || buffer.Held is not { State: not QuarantineState.Released } held)
        {
            return first;
        }

        RevokeOperation second = RevokeOperation.Start(buffer.Shared, policy);
        Quarantine.HoldAlso(held, second);
        return second;
    }

    private static bool CanEvict(GpuBuffer buffer) =>
        buffer.Storage == StorageKind.Movable
        && buffer.Placement.Domain == GpuDomain.Vram
        && buffer.PinCount == 0
        && !buffer.Shared.IsRevoked
        && !buffer.HasUnstoppableMapping;

    private void Clear(GpuBuffer buffer)
    {
        AcquireTicket ticket = new(Host, $"clear of {buffer.Shared.Name}");
        Reservation reservation = buffer.Shared.Reservation;
        reservation.TryLock(ticket); // nobody else knows the buffer yet

        // As dma_resv_reserve_fences() asks: the slot first, for once the engine has the job nothing may fail. Whether
        // it has room was asked in the same hold of the host lock, and without that lock its fence cannot signal.
        reservation.ReserveFences(ticket, 1);
        using SignalingSection section = new(ticket.Owner, "submission");
        CopyJob job = new()
        {
            Name = $"clear {buffer.Shared.Name}",
            Target = buffer.Placement.LocalAddresses,
            Fence = buffer.Timeline.CreateFence(),
            Failed = _ => TakeBackLost(buffer, "it could not be cleared"),
            Ended = j => _clearedBytes += j.DoneBytes,
        };
        CopyEngine.TrySubmit(job);
        reservation.AddFence(ticket, job.Fence, ReservationUsage.Kernel);
        reservation.Unlock(ticket);
    }
}
