using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Tests.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma.Connections;

/// <summary>The messages that rdma_cm of a kernel sent, read and written again.</summary>
public class CmCaptureTests
{
    private static List<byte[]> Mads(string name)
    {
        List<byte[]> mads = [];
        foreach (PcapRecord record in CaptureFiles.ReadAll(name))
        {
            Assert.Equal(FrameError.None, FrameView.TryParse(record.Frame.Span, out FrameView frame));
            Assert.Equal(DropReason.None, PacketView.TryParse(frame.UdpPayload, out PacketView packet));
            if (packet.Opcode == Opcode.UdSendOnly)
            {
                mads.Add(packet.Payload.ToArray());
            }
        }

        return mads;
    }

    [Theory]
    [InlineData("cm_rping")]
    [InlineData("cm_reject")]
    public void ROCE_69_Every_message_of_a_capture_is_written_as_it_was_read(string name)
    {
        foreach (byte[] mad in Mads(name))
        {
            Assert.True(MadHeader.TryParse(mad, out MadHeader header));
            byte[] again = new byte[MadHeader.MadBytes];
            switch (header.Attribute)
            {
                case CmMessageId.ConnectRequest:
                    CmRequest.Parse(mad).WriteTo(again, header.TransactionId);
                    break;
                case CmMessageId.ConnectReply:
                    CmReply.Parse(mad).WriteTo(again, header.TransactionId);
                    break;
                default:
                    CmNotice.Parse(mad, header.Attribute).WriteTo(again, header.TransactionId);
                    break;
            }

            Assert.Equal(Convert.ToHexString(mad), Convert.ToHexString(again));
        }
    }

    [Fact]
    public void ROCE_69_The_request_of_rping_says_what_it_is_known_to_say()
    {
        CmRequest request = CmRequest.Parse(Mads("cm_rping")[0]);
        Assert.Equal(
            (0x01061c06UL, 78u, 1, 1, 0x4c5e2fu, 5, 7, 15, 17, 4),
            (request.ServiceId, request.QpNumber, request.ResponderResources, request.InitiatorDepth,
                request.StartingPsn, request.PathMtu, request.RnrRetryCount, request.RetriesMax, request.AckTimeout,
                request.IPVersion));
        Assert.Equal(("10.77.0.1", "10.77.0.2"), (request.LocalGid.ToString(), request.RemoteGid.ToString()));
    }
}
