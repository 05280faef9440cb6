using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>A descriptor that stands for something of this host.</summary>
/// <param name="Pair">Whose kept end hangs up when the last copy is gone.</param>
/// <param name="Target">What it stands for: a <see cref="BrokerBuffer"/> or a <see cref="BrokerSync"/>.</param>
/// <param name="Exporter">On whose account it is.</param>
internal sealed record BrokerDescriptor(HandlePair Pair, object Target, BrokerProgram Exporter)
{
    /// <summary>Runs once when no copy is left. Host lock held.</summary>
    public required Action<BrokerDescriptor> GoneLocked { get; init; }
}

/// <summary>
/// Descriptors of which a copy is left anywhere, by the cookies of their sockets. Members with Locked in their name
/// hold the host lock.
/// </summary>
internal sealed class BrokerHandles(HostContext context, BrokerPrograms programs)
{
    private readonly Dictionary<ulong, BrokerDescriptor> _descriptors = []; // host lock

    public IEnumerable<BrokerDescriptor> AllLocked => _descriptors.Values;

    /// <summary>Puts a descriptor on the account of who gets it.</summary>
    /// <exception cref="WayleaveException">EDQUOT; the pair stays the caller's.</exception>
    public void AddLocked(BrokerDescriptor descriptor, string operation)
    {
        descriptor.Exporter.Ledger.Take(BrokerAccount.Descriptors, operation);
        HandlePair pair = descriptor.Pair;
        try
        {
            // Nobody has anything to say by the descriptor of a fence: who does has ended it for all copies.
            programs.Watch?.Invoke(pair.Cookie, pair.Kept, pair.IsSignal);
        }
        catch (LinuxException e)
        {
            descriptor.Exporter.Ledger.Give(BrokerAccount.Descriptors);
            throw ErrnoMap.ToException(e, operation);
        }

        _descriptors.Add(pair.Cookie, descriptor);
    }

    /// <summary>What a descriptor that somebody sent stands for.</summary>
    /// <returns>Null when it is none of this host's, or stands for something else. Host lock not held.</returns>
    public T? Find<T>(FileDescriptor descriptor)
        where T : class
    {
        if (!HandlePair.TryReadCookie(descriptor, out ulong cookie))
        {
            return null;
        }

        using (context.Enter())
        {
            return _descriptors.GetValueOrDefault(cookie)?.Target as T;
        }
    }

    /// <summary>No copy of a descriptor is left.</summary>
    public void HandleHangup(ulong cookie)
    {
        BrokerDescriptor? descriptor;
        using (context.Enter())
        {
            if (!_descriptors.Remove(cookie, out descriptor))
            {
                return;
            }

            descriptor.GoneLocked(descriptor);
            descriptor.Exporter.Ledger.Give(BrokerAccount.Descriptors);
            programs.ForgetLocked(descriptor.Exporter);
        }

        descriptor.Pair.Dispose();
    }
}
