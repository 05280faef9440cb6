using System.Diagnostics;
using Wayleave.Core;

namespace Wayleave.Host.Broker;

/// <summary>What a program has something of.</summary>
internal enum BrokerAccount
{
    /// <summary>Device memory that it allocated and that is not free again, quarantine among it.</summary>
    Bytes,

    /// <summary>Of those, what was taken back and cannot be used again yet.</summary>
    QuarantinedBytes,

    /// <summary>Buffers by number.</summary>
    Buffers,

    /// <summary>Descriptors that it was given and of which a copy is left: of buffers and of fences.</summary>
    Descriptors,

    /// <summary>Mappings of its own, ended ones whose end is not proven among them.</summary>
    Mappings,

    Connections,

    /// <summary>Keys of memory that is registered for RDMA.</summary>
    Keys,

    /// <summary>Queue pairs.</summary>
    QueuePairs,

    /// <summary>Queues of engines, contexts that they are in, and timelines.</summary>
    Queues,

    /// <summary>Work of engines that has not ended.</summary>
    Jobs,
}

/// <summary>A program's account. Host lock held by the caller.</summary>
/// <param name="limits">Of every program.</param>
/// <param name="holder">For refusals: <c>process 4711</c>.</param>
internal sealed class BrokerLedger(BrokerLimits limits, string holder)
{
    private static readonly int s_accounts = Enum.GetValues<BrokerAccount>().Length;

    private readonly long[] _used = new long[s_accounts];

    /// <summary>How much it has.</summary>
    public long this[BrokerAccount account] => _used[(int)account];

    /// <summary>It has nothing at all.</summary>
    public bool IsEmpty => Array.TrueForAll(_used, u => u == 0);

    /// <summary>Puts something on the account.</summary>
    /// <exception cref="WayleaveException">EDQUOT: it would be more than a program may have.</exception>
    public void Take(BrokerAccount account, string operation, long amount = 1)
    {
        if (amount > limits.MaxOf(account) - _used[(int)account])
        {
            throw Refused(account, operation);
        }

        _used[(int)account] += amount;
    }

    /// <summary>As <see cref="Take"/>, for what happens to a program, whatever its limit.</summary>
    public void Add(BrokerAccount account, long amount) => _used[(int)account] += amount;

    /// <summary>It is given back.</summary>
    public void Give(BrokerAccount account, long amount = 1)
    {
        Debug.Assert(_used[(int)account] >= amount, "more is given back than was taken");
        _used[(int)account] -= amount;
    }

    /// <summary>For an account that nobody asks to add to: refuses what would add to it later.</summary>
    /// <exception cref="WayleaveException">EDQUOT: it has as much as a program may have.</exception>
    public void ThrowIfFull(BrokerAccount account, string operation)
    {
        if (_used[(int)account] >= limits.MaxOf(account))
        {
            throw Refused(account, operation);
        }
    }

    private WayleaveException Refused(BrokerAccount account, string operation)
    {
        bool isBytes = account is BrokerAccount.Bytes or BrokerAccount.QuarantinedBytes;
        string has = isBytes ? ByteSize.ToText(_used[(int)account]) : $"{_used[(int)account]}";
        string max = isBytes ? ByteSize.ToText(limits.MaxOf(account)) : $"{limits.MaxOf(account)}";
        return new WayleaveException(
            Errno.EDQUOT, operation, $"{holder} has {has} of the {max} {Noun(account)} that a program may have");
    }

    private static string Noun(BrokerAccount account) => account switch
    {
        BrokerAccount.Bytes => "of memory",
        BrokerAccount.QuarantinedBytes => "in quarantine",
        BrokerAccount.QueuePairs => "queue pairs",
        _ => account.ToString().ToLowerInvariant(),
    };
}
