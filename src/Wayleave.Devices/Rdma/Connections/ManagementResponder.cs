using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>The receiving half of queue pair 1: there are no receives, the agent takes each datagram at once.</summary>
internal sealed class ManagementResponder(IManagementAgent agent) : ReceiveSide
{
    public override uint ExpectedPsn => 0;

    public override uint Msn => 0;

    public override void Reset(uint firstPsn)
    {
    }

    public override DropReason HandleRequest(in PacketView packet, in Arrival arrival)
    {
        agent.HandleMad(arrival, packet.Deth.SourceQp, packet.Payload);
        return DropReason.None;
    }

    public override BuildResult BuildNext(ref SuperPacket superPacket) => BuildResult.Nothing;

    public override void Wake()
    {
    }

    public override void Flush()
    {
    }
}
