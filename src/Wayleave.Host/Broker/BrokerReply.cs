using Wayleave.Client.Wire;
using Wayleave.Linux;

namespace Wayleave.Host.Broker;

/// <summary>An answer that is being made.</summary>
internal ref struct BrokerReply(BrokerWriter body)
{
    public BrokerWriter Body = body;

    /// <summary>Is sent with it, and closed here once it was.</summary>
    public FileDescriptor? Descriptor { get; set; }

    /// <summary>Are sent with it, and stay whose they are.</summary>
    public FileDescriptor[]? Lent { get; set; }
}
