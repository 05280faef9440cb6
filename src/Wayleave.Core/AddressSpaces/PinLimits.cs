namespace Wayleave.Core.AddressSpaces;

/// <summary>What a process may pin for long.</summary>
/// <param name="LimitBytes"><c>RLIMIT_MEMLOCK</c>.</param>
/// <param name="HasLockCapability"><c>CAP_IPC_LOCK</c>: the limit does not count.</param>
public sealed record PinLimits(ulong LimitBytes, bool HasLockCapability = false)
{
    public static PinLimits None { get; } = new(ulong.MaxValue);
}

/// <summary>
/// What a process has pinned for long on somebody's behalf (<c>mm-&gt;pinned_vm</c>). Host lock held by the caller.
/// </summary>
public sealed class PinAccount
{
    internal PinAccount(PinLimits limits) => Limits = limits;

    public PinLimits Limits { get; }

    /// <summary>Charged and not given back.</summary>
    public long Pages { get; private set; }

    /// <summary>
    /// Charges pages before they are pinned, as <c>ib_umem_get</c> does.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EPERM"/> where the limit is 0, <see cref="Errno.ENOMEM"/> when it would be exceeded; neither
    /// with the capability. Nothing is charged then.
    /// </returns>
    public Errno TryCharge(long pages)
    {
        if (!Limits.HasLockCapability)
        {
            if (Limits.LimitBytes == 0)
            {
                return Errno.EPERM;
            }

            if ((ulong)(Pages + pages) > Limits.LimitBytes / PageFrame.SizeBytes)
            {
                return Errno.ENOMEM;
            }
        }

        Pages += pages;
        return Errno.Success;
    }

    /// <summary>Gives back what was charged.</summary>
    public void Uncharge(long pages) => Pages -= pages;
}
