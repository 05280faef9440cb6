using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>
/// Sends management datagrams from queue pair 1. What the ring does not take is lost, as on the wire. Port token held
/// by the caller.
/// </summary>
internal sealed class MadSender
{
    /// <summary>The Q_Key of every queue pair 1.</summary>
    public const uint QKey = 0x8001_0000;

    private const int Depth = 256;

    private readonly RdmaDevice _device;
    private readonly ProtectionDomain _domain;
    private readonly CompletionQueue _completions;
    private readonly QueuePair _pair;
    private readonly PortLink _link;
    private readonly ushort _peerUdpPort;
    private readonly Dictionary<Gid, Destination> _destinations = [];
    private readonly Dictionary<ulong, Gid> _underWay = [];
    private readonly WorkCompletion[] _polled = new WorkCompletion[16];
    private ulong _nextWrId;

    public MadSender(RdmaDevice device, PortLink link, IManagementAgent agent, ushort peerUdpPort)
    {
        (_device, _link, _peerUdpPort) = (device, link, peerUdpPort);
        _domain = device.CreateProtectionDomain();
        RdmaDevice.TryCreateCompletionQueue(2 * Depth, out CompletionQueue? completions);
        _completions = completions!;
        QueuePairCapabilities capabilities = new()
        {
            MaxSendWr = Depth,
            MaxReceiveWr = 1,
            MaxInlineData = MadHeader.MadBytes,
        };
        _pair = device.CreateManagementPair(
            new QueuePairRequest(_domain, _completions, _completions, capabilities)
            {
                Type = QueuePairType.UnreliableDatagram,
                SignalsAll = true,
            },
            agent,
            link);
        QueuePairAttributes attributes = new() { Port = link.Number, QKey = QKey, SqPsn = device.RandomPsn() };
        foreach (QueuePairState state in new[]
            { QueuePairState.Init, QueuePairState.ReadyToReceive, QueuePairState.ReadyToSend })
        {
            QueuePairTransitions.TryGet(
                _pair.State, state, _pair.Type, out QueuePairAttributeMask required, out _);
            _pair.Modify(attributes with { State = state }, required | QueuePairAttributeMask.State);
        }
    }

    public void Send(Gid to, ReadOnlySpan<byte> mad)
    {
        Collect();
        if (!_destinations.TryGetValue(to, out Destination? destination))
        {
            AddressVector address = new(to, _peerUdpPort);
            Errno errno = _device.TryCreateAddressHandle(_domain, address, out AddressHandle? handle, _link.Number);
            if (errno != Errno.Success)
            {
                return;
            }

            destination = new Destination(handle!);
            _destinations.Add(to, destination);
        }

        SendWorkRequest request = new()
        {
            WrId = _nextWrId,
            Opcode = WorkRequestOpcode.Send,
            AddressHandle = destination.Handle,
            RemoteQpNumber = RdmaDevice.ManagementNumber,
            RemoteQKey = QKey,
        };
        if (_pair.PostSendInline(request, mad) == Errno.Success)
        {
            _underWay.Add(_nextWrId++, to);
            destination.UnderWay++;
        }
        else
        {
            ForgetIfUnused(to, destination);
        }
    }

    // An address handle lives as long as a datagram with it may not have left.
    private void Collect()
    {
        int count;
        while ((count = _completions.Poll(_polled)) > 0)
        {
            foreach (WorkCompletion completion in _polled.AsSpan(0, count))
            {
                if (_underWay.Remove(completion.WrId, out Gid to))
                {
                    Destination destination = _destinations[to];
                    destination.UnderWay--;
                    ForgetIfUnused(to, destination);
                }
            }
        }
    }

    private void ForgetIfUnused(Gid to, Destination destination)
    {
        if (destination.UnderWay == 0)
        {
            _destinations.Remove(to);
            _device.DestroyAddressHandle(destination.Handle);
        }
    }

    private sealed class Destination(AddressHandle handle)
    {
        public AddressHandle Handle { get; } = handle;

        public int UnderWay { get; set; }
    }
}
