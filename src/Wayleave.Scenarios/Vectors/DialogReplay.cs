using System.Buffers.Binary;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

// Time stands still: nothing is lost in such a dialog, so no timer may run out, and how long the captured programs
// thought about something is theirs.

/// <summary>
/// Plays one side of a dialog in which both sides ask (<see cref="DialogVector"/>), packet by packet in the order of
/// the capture: the peer's are fed, ours are posted, or sent by the connection manager, and compared.
/// </summary>
internal sealed class DialogReplay(ReplayInput input) : ReplayRun(input)
{
    private readonly Dictionary<ulong, byte> _written = []; // what came over the wire, by address
    private readonly Dictionary<uint, Queue<VectorPacket>> _answers = []; // ours by PSN, those that are still to come
    private readonly Dictionary<int, VectorWorkRequest> _requests = []; // by the packet
    private ConnectionManager? _manager;
    private CmConnection? _connection;

    protected override void Play()
    {
        OpenManager();
        Index();
        foreach (VectorPacket packet in Packets)
        {
            if (!TryView(packet, out PacketView view))
            {
                continue;
            }

            if (IsOurs(packet))
            {
                SendOurs(packet, view);
            }
            else
            {
                FeedTheirs(packet, view);
            }
        }

        while (Machine.TryTransmit(out ReadOnlySpan<byte> more, out _))
        {
            AddMismatch("end of the capture", "packet", "nothing more", Describe(more));
        }
    }

    private void SendOurs(VectorPacket packet, in PacketView view)
    {
        if (view.Opcode == Opcode.UdSendOnly)
        {
            Act(packet, view);
        }
        else if (view.Traits.IsRequest)
        {
            VectorWorkRequest request = _requests[packet.Index];
            Machine.Write(SlotOf(packet), view.Payload);
            NotePost(Machine.Post(request), $"work request {request.Index}");
        }

        if (!Machine.TryTransmit(out ReadOnlySpan<byte> got, out Transmit transmit))
        {
            return; // reported as missing
        }

        Compare(packet, got, transmit, AsCaptured(view, got));
    }

    private ulong SlotOf(VectorPacket packet) =>
        DialogVector.SlotVa(Side.Mrs.First(m => m.Name == DialogVector.LocalName).Va.Value, packet.Index);

    private void FeedTheirs(VectorPacket packet, in PacketView view)
    {
        if (view.Opcode == Opcode.UdSendOnly)
        {
            Expect(view);
        }
        else if (view.Opcode == Opcode.RcReadRequest && view.Reth.Length > 0)
        {
            FillAsAnswered(packet, view.Psn, view.Reth.Va);
        }
        else if (view.Traits.Has(ExtensionHeaders.AtomicEth))
        {
            FillAsAnswered(packet, view.Psn, view.AtomicEth.Va);
        }
        else if (view.Opcode == Opcode.RcWriteOnly)
        {
            NoteWritten(view.Reth.Va, view.Payload);
        }

        Feed(packet, ChangesOf(view));
        while (_manager?.PollEvent(out CmEvent happened) == true)
        {
            _connection ??= happened.Connection;
        }
    }

    private static Action<byte[]>? ChangesOf(in PacketView view)
    {
        const int KeyOffset = Bth.Size + sizeof(ulong); // of RETH and AtomicETH
        uint key = view.Traits.Has(ExtensionHeaders.Reth) ? view.Reth.RKey
            : view.Traits.Has(ExtensionHeaders.AtomicEth) ? view.AtomicEth.RKey
            : 0;
        uint here = DialogVector.KeyHere(key);
        return key == 0 || here == key
            ? null
            : bytes => BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(KeyOffset), here);
    }

    // What our application had in the memory that the peer reads nobody but the answer says. What the peer has written
    // there itself must still be there, unless the answer says that the application has changed it since.
    private void FillAsAnswered(VectorPacket request, uint psn, ulong va)
    {
        Queue<VectorPacket>? answers = _answers.GetValueOrDefault(psn);
        while (answers?.TryPeek(out VectorPacket? past) == true && past.Index <= request.Index)
        {
            answers.Dequeue();
        }

        if (answers?.TryPeek(out VectorPacket? packet) != true || !TryView(packet!, out PacketView answer))
        {
            return;
        }

        ReadOnlySpan<byte> bytes = answer.Opcode == Opcode.RcAtomicAcknowledge
            ? DialogVector.Word(answer.AtomicAck)
            : answer.Payload;
        bool isChanged = DialogVector.IsChanged(_written, va, bytes);
        for (int i = 0; i < bytes.Length; i++)
        {
            if (isChanged || !_written.ContainsKey(va + (ulong)i))
            {
                Machine.Write(va + (ulong)i, bytes.Slice(i, 1));
            }
        }
    }

    // What is looked for all over the capture, once: it may have tens of thousands of packets.
    private void Index()
    {
        foreach (VectorWorkRequest request in Side.WorkRequests)
        {
            _requests.TryAdd(request.Index, request);
        }

        foreach (VectorPacket packet in Packets)
        {
            if (IsOurs(packet) && TryView(packet, out PacketView view) && view.Traits.IsResponse)
            {
                if (!_answers.TryGetValue(view.Psn, out Queue<VectorPacket>? answers))
                {
                    _answers[view.Psn] = answers = new Queue<VectorPacket>();
                }

                answers.Enqueue(packet);
            }
        }
    }

    private void NoteWritten(ulong va, ReadOnlySpan<byte> bytes)
    {
        for (int i = 0; i < bytes.Length; i++)
        {
            _written[va + (ulong)i] = bytes[i];
        }
    }

    // What the captured manager drew at random ours draws too, in the order in which it needs it.
    private void OpenManager()
    {
        bool isManaged = false;
        (ulong guid, uint psn, ushort sourcePort) = (0, 0, 0);
        ushort? listensTo = null;
        ConnectionManagerOptions options = new() { Profile = Profile, PeerIcrc = IcrcMode.Full };
        foreach (VectorPacket packet in Packets.Reverse())
        {
            if (!TryView(packet, out PacketView view) || view.Opcode != Opcode.UdSendOnly)
            {
                continue;
            }

            isManaged = true;
            bool isOurs = IsOurs(packet);
            psn = isOurs ? view.Psn : psn;
            switch (DialogVector.MessageOf(view).Attribute)
            {
                case CmMessageId.ConnectRequest when isOurs:
                    CmRequest request = CmRequest.Parse(view.Payload);
                    (guid, sourcePort) = (request.NodeGuid, request.SourcePort);
                    options = options with
                    {
                        AckTimeoutCode = request.AckTimeout,
                        ResponseTimeoutCode = request.ResponseTimeout,
                        RetriesMax = request.RetriesMax,
                    };
                    break;
                case CmMessageId.ConnectReply when isOurs:
                    guid = CmReply.Parse(view.Payload).NodeGuid;
                    listensTo = 0;
                    break;
                case CmMessageId.ConnectRequest when listensTo is not null:
                    listensTo = CmRequest.Parse(view.Payload).Port;
                    break;
                default:
                    break;
            }
        }

        if (isManaged)
        {
            Machine.Draw((uint)(guid >> 32), (uint)guid, psn, sourcePort);
            _manager = new ConnectionManager(Machine.Device, options);
            if (listensTo is { } port)
            {
                NotePost(_manager.Listen(port, backlog: 1, out _), "listener");
            }
        }
    }

    // Before a message of the peer: what it makes the manager draw.
    private void Expect(in PacketView view)
    {
        if (DialogVector.MessageOf(view).Attribute != CmMessageId.ConnectRequest)
        {
            return;
        }

        foreach (VectorPacket packet in Packets.Where(IsOurs))
        {
            if (TryView(packet, out PacketView answer)
                && answer.Opcode == Opcode.UdSendOnly
                && DialogVector.MessageOf(answer).Attribute == CmMessageId.ConnectReply)
            {
                CmReply reply = CmReply.Parse(answer.Payload);
                Machine.Draw(reply.LocalId, reply.StartingPsn);
            }
        }
    }

    // What the application did, when it was it that had this message sent.
    private void Act(VectorPacket packet, in PacketView view)
    {
        MadHeader header = DialogVector.MessageOf(view);
        ulong transaction = header.TransactionId;
        switch (header.Attribute)
        {
            case CmMessageId.ConnectRequest:
                CmRequest request = CmRequest.Parse(view.Payload);
                Machine.Draw(request.LocalId, (uint)(transaction >> 32), (uint)transaction, request.StartingPsn);
                CmParameters asked = new()
                {
                    ResponderResources = request.ResponderResources,
                    InitiatorDepth = request.InitiatorDepth,
                    RetryCount = request.RetryCount,
                    RnrRetryCount = request.RnrRetryCount,
                    PathMtu = (PathMtu)request.PathMtu,
                    PrivateData = request.PrivateData,
                };
                Require(_manager!.Prepare(Machine.Pair, asked), "prepare");
                PostReceives(_ => true);
                Require(
                    _manager.Connect(
                        Machine.Now, Machine.PeerGid, request.Port, Machine.Pair, asked, out _connection),
                    "connect");
                break;
            case CmMessageId.ConnectReply when _connection is { } waiting:
                CmReply reply = CmReply.Parse(view.Payload);
                CmParameters accepted = new()
                {
                    ResponderResources = reply.ResponderResources,
                    InitiatorDepth = reply.InitiatorDepth,
                    RnrRetryCount = reply.RnrRetryCount,
                    PrivateData = reply.PrivateData,
                };
                Require(_manager!.Prepare(Machine.Pair, accepted), "prepare");
                PostReceives(_ => true);
                Require(_manager.Accept(Machine.Now, waiting, Machine.Pair, accepted), "accept");
                break;
            case CmMessageId.DisconnectRequest when _connection is { } ended:
                Machine.Draw((uint)(transaction >> 32), (uint)transaction);
                _manager!.Disconnect(Machine.Now, ended);
                break;
            default:
                break; // sent by itself
        }

        void Require(Errno errno, string what)
        {
            if (errno != Errno.Success)
            {
                AddPacketMismatch(packet, what, "Success", errno.ToString());
            }
        }
    }

    // MigReq means nothing without path migration: rxe sends 0, others 1 (roce.md A1). A datagram to queue pair 1 means
    // the same with AckReq and without (A13), and the port that somebody connects from is his.
    private static byte[] AsCaptured(in PacketView captured, ReadOnlySpan<byte> got)
    {
        const int MigrationOffset = 1, AckRequestOffset = 8;
        const byte MigrationBit = 0x40, AckRequestBit = 0x80;
        byte[] bytes = got.ToArray();
        bytes[MigrationOffset] |= captured.Bth.MigrationRequest ? MigrationBit : (byte)0;
        if (captured.Opcode != Opcode.UdSendOnly
            || PacketView.TryParse(got, out PacketView view) != DropReason.None
            || !MadHeader.TryParse(view.Payload, out MadHeader header))
        {
            return bytes;
        }

        bytes[AckRequestOffset] |= captured.AckRequest ? AckRequestBit : (byte)0;
        if (header.Attribute == CmMessageId.ConnectRequest)
        {
            CmRequest request = CmRequest.Parse(view.Payload) with
            {
                SourcePort = CmRequest.Parse(captured.Payload).SourcePort,
            };
            request.WriteTo(bytes.AsSpan(view.Traits.HeaderBytes, MadHeader.MadBytes), header.TransactionId);
        }

        return bytes;
    }
}
