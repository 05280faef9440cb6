using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Audits;

/// <summary>What an audit found when it looked.</summary>
/// <param name="LateWriteBytes">
/// Bytes of the reclaimed memory that changed after the proof, found by reading them.
/// </param>
/// <param name="RejectedBytes">Payload bytes that came for the dead keys after the revoke and were refused.</param>
/// <param name="KeyReused">Whether a new registration got the number of a dead key.</param>
/// <param name="InspectedBytes">How much memory was compared.</param>
public sealed record AuditFindings(long LateWriteBytes, long RejectedBytes, bool KeyReused, long InspectedBytes);

/// <summary>
/// Tries a proof: after a revoke the memory goes to a new owner, who marks every byte of it; whatever the old users
/// still do must leave no trace. The mark is checked as often as asked, until the audit is ended.
/// </summary>
public sealed class TakeBackAudit
{
    // Enough that a device which hands out dead numbers again would be seen.
    private const int KeyProbes = 256;
    private const ulong ProbeBytes = 4096;

    private readonly ObjectStore _objects;
    private readonly HostContext _host;
    private readonly DeviceObject _newOwner;
    private readonly IReadOnlyList<(MemoryRegion Region, long RejectedBefore)> _regions;
    private readonly NicHandle _nic;

    private TakeBackAudit(
        ObjectStore objects,
        HostContext host,
        NicHandle nic,
        DeviceObject newOwner,
        RetirementProof proof,
        IReadOnlyList<(MemoryRegion, long)> regions,
        ulong seed,
        ulong overlapBytes)
    {
        (_objects, _host, _nic, _newOwner, _regions) = (objects, host, nic, newOwner, regions);
        (Proof, Seed, OverlapBytes) = (proof, seed, overlapBytes);
    }

    public ulong Id => _newOwner.Id;

    /// <summary>The registrations whose keys died, with what they took and refused.</summary>
    public IEnumerable<MemoryRegion> Regions => _regions.Select(r => r.Region);

    public RetirementProof Proof { get; }

    /// <summary>Of the mark, <see cref="OwnerPattern"/>; its offsets are those of the object.</summary>
    public ulong Seed { get; }

    /// <summary>
    /// Bytes of the new owner's memory that were the old one's. The audit is meaningful when it is the whole size.
    /// </summary>
    public ulong OverlapBytes { get; }

    /// <summary>Takes the object back, gives its memory to a new owner and marks it.</summary>
    /// <param name="objects">The store of the object.</param>
    /// <param name="host">Its host.</param>
    /// <param name="nic">Where new keys are tried.</param>
    /// <param name="o">What is taken back.</param>
    /// <param name="regions">The registrations of the object, whose keys die.</param>
    /// <param name="policy">Of the revoke.</param>
    /// <param name="seed">Of the mark.</param>
    /// <param name="cancellation">
    /// Ends the marking; the object is taken back all the same, and the new owner's memory given up again.
    /// </param>
    /// <exception cref="WayleaveException">
    /// The proof is not sufficient, so there is no new owner; the message says what is missing.
    /// </exception>
    public static async Task<TakeBackAudit> StartAsync(
        ObjectStore objects,
        HostContext host,
        NicHandle nic,
        DeviceObject o,
        IReadOnlyList<MemoryRegion> regions,
        RevokePolicy policy,
        ulong seed,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(objects);
        ArgumentNullException.ThrowIfNull(o);
        DmaAddressList old = o.Memory.Addresses;
        RetirementProof proof = await objects.RevokeAsync(o, policy).ConfigureAwait(false);
        if (!proof.IsSufficient)
        {
            throw new WayleaveException(
                Errno.EBUSY,
                $"take {o} back",
                $"the proof is of grade {proof.Grade}, {proof.RequiredGrade} is required",
                "its memory stays in quarantine");
        }

        (MemoryRegion, long)[] before = [.. regions.Select(r => (r, r.BytesRejected))];
        DeviceObject owner = await objects
            .CreateAsync(o.Device, $"audit-{o.Id}", o.SizeBytes, o.Storage, cancellation).ConfigureAwait(false);
        try
        {
            await objects.ForEachPieceAsync(
                owner, (offset, bytes) => OwnerPattern.Fill(seed, offset, bytes), cancellation).ConfigureAwait(false);
        }
        catch
        {
            await objects.AbortAsync(owner, "the audit could not start").ConfigureAwait(false);
            throw;
        }

        ulong overlap = Overlap(old.Entries, owner.Memory.Addresses.Entries);
        return new TakeBackAudit(objects, host, nic, owner, proof, before, seed, overlap);
    }

    /// <summary>Reads the reclaimed memory and says what changed since the proof.</summary>
    public async Task<AuditFindings> InspectAsync()
    {
        long late = 0, inspected = 0;
        await _objects.ForEachPieceAsync(_newOwner, (offset, bytes) =>
        {
            late += OwnerPattern.CountForeign(Seed, offset, bytes);
            inspected += bytes.Length;
        }).ConfigureAwait(false);
        long rejected = _regions.Sum(r => r.Region.BytesRejected - r.RejectedBefore);
        return new AuditFindings(late, rejected, await IsKeyReusedAsync().ConfigureAwait(false), inspected);
    }

    /// <summary>Gives the memory up.</summary>
    public Task EndAsync() => _objects.AbortAsync(_newOwner, "audit ended");

    private async Task<bool> IsKeyReusedAsync()
    {
        bool reused = false;
        foreach ((MemoryRegion region, _) in _regions)
        {
            reused |= await CanTakeNumberOfAsync(region).ConfigureAwait(false);
        }

        for (int i = 0; i < KeyProbes && !reused; i++)
        {
            MemoryRegionRequest request = new(
                0, Math.Min(ProbeBytes, _newOwner.SizeBytes), 0, AccessFlags.LocalWrite, ImporterKind.Dynamic);
            MemoryRegion probe = await _nic
                .RegisterAsync(_nic.AuditDomain, _newOwner.Buffer, request).ConfigureAwait(false);
            reused = _regions.Any(r => r.Region.Key == probe.Key);
            await _nic.DeregisterAsync(probe).ConfigureAwait(false);
        }

        return reused;
    }

    // Asks for the very number, because to wait until a random one meets it would find nothing. Once the old user has
    // deregistered, its number is free by right.
    private async Task<bool> CanTakeNumberOfAsync(MemoryRegion dead)
    {
        MemoryRegionRequest request = new(
            0, Math.Min(ProbeBytes, _newOwner.SizeBytes), 0, AccessFlags.LocalWrite, ImporterKind.Dynamic, dead.Key);
        try
        {
            MemoryRegion probe = await _nic
                .RegisterAsync(_nic.AuditDomain, _newOwner.Buffer, request).ConfigureAwait(false);
            await _nic.DeregisterAsync(probe).ConfigureAwait(false);
        }
        catch (WayleaveException e) when (e.Errno == Errno.EEXIST)
        {
            return false;
        }

        using (_host.Enter())
        {
            return dead.Buffer is not null;
        }
    }

    private static ulong Overlap(ReadOnlySpan<DeviceRange> old, ReadOnlySpan<DeviceRange> now)
    {
        ulong bytes = 0;
        foreach (DeviceRange a in old)
        {
            foreach (DeviceRange b in now)
            {
                if (a.Overlaps(b))
                {
                    ulong start = Math.Max(a.Start.Value, b.Start.Value);
                    bytes += Math.Min(a.Start.Value + a.LengthBytes, b.Start.Value + b.LengthBytes) - start;
                }
            }
        }

        return bytes;
    }
}
