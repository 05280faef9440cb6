using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;

namespace Wayleave.Host.Objects;

/// <summary>
/// Memory that stays where it is: of an accelerator, or in a BAR of VFIO. Their devices export it and do not take it
/// back by themselves; the host, which made the buffer, does. Host lock held by the caller.
/// </summary>
/// <param name="shared">The buffer; released with the memory.</param>
/// <param name="sizeBytes">Of the object; the buffer is whole pages.</param>
/// <param name="place">What it is in.</param>
/// <param name="addresses">Where it is.</param>
/// <param name="quarantine">Of the device.</param>
/// <param name="giveBack">
/// Runs once with the host lock held, when the memory may go to somebody else and its owner's reference is gone.
/// </param>
internal sealed class FixedObjectMemory(
    SharedBuffer shared,
    ulong sizeBytes,
    ObjectPlace place,
    DmaAddressList addresses,
    Quarantine quarantine,
    Action giveBack)
    : ObjectMemory
{
    private RevokeOperation? _freeing;
    private QuarantineEntry? _held;

    public override SharedBuffer Shared { get; } = shared;

    public override ulong SizeBytes { get; } = sizeBytes;

    public override ObjectPlace Place { get; } = place;

    public override DmaAddressList Addresses { get; } = addresses;

    public override RevokeOperation? Freeing => _freeing;

    public override QuarantineEntry? Held => _held;

    // As a GPU does: a second policy starts its own operation, and the memory waits for both.
    public override RevokeOperation Free(RevokePolicy policy)
    {
        ArgumentNullException.ThrowIfNull(policy);
        Shared.Host.AssertHeld();
        policy = policy.RequiredGrade < RetirementGrade.Drained
            ? policy with { RequiredGrade = RetirementGrade.Drained }
            : policy;
        if (_freeing is { } first)
        {
            if (policy == first.Policy || _held is not { State: not QuarantineState.Released } held)
            {
                return first;
            }

            RevokeOperation second = RevokeOperation.Start(Shared, policy);
            quarantine.HoldAlso(held, second);
            return second;
        }

        _freeing = RevokeOperation.Start(Shared, policy);
        _held = quarantine.Hold(_freeing, Shared.Exporter.Name, Shared.SizeBytes, () =>
        {
            Shared.Release();
            giveBack();
        });
        return _freeing;
    }
}
