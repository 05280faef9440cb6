using System.Text;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma.Wire;

public class OpcodeTraitsTests
{
    [Fact]
    public void The_table_is_the_reviewed_one()
    {
        StringBuilder text = new();
        text.AppendLine(
            "op  name                   header  extensions            payload       role      message     receive");
        for (int value = 0; value < 256; value++)
        {
            Opcode opcode = (Opcode)value;
            OpcodeTraits traits = OpcodeTraits.Of(opcode);
            if (traits.IsDefined)
            {
                text.AppendLine(Row(opcode, traits));
            }
        }

        Snapshot.Match(text.ToString(), "OpcodeTable");
    }

    [Fact]
    public void Every_named_opcode_is_defined_and_no_other_byte_is()
    {
        for (int value = 0; value < 256; value++)
        {
            OpcodeTraits traits = OpcodeTraits.Of((Opcode)value);
            Assert.Equal(Enum.IsDefined((Opcode)value), traits.IsDefined);
            Assert.Equal(traits.IsDefined, traits.Service != TransportService.None);
            Assert.Equal(!traits.IsDefined, OpcodeTraits.NameOf((Opcode)value) == $"UNKNOWN_{value:X2}");
        }
    }

    [Theory]
    [InlineData(Opcode.RcSendFirst, 1024, true)]
    [InlineData(Opcode.RcSendFirst, 1023, false)]
    [InlineData(Opcode.RcSendFirst, 1025, false)]
    [InlineData(Opcode.RcWriteLast, 0, false)]
    [InlineData(Opcode.RcWriteLast, 1, true)]
    [InlineData(Opcode.RcWriteLast, 1024, true)]
    [InlineData(Opcode.RcWriteLast, 1025, false)]
    [InlineData(Opcode.RcSendOnly, 0, true)]
    [InlineData(Opcode.RcSendOnly, 1024, true)]
    [InlineData(Opcode.RcSendOnly, 1025, false)]
    [InlineData(Opcode.RcReadRequest, 0, true)]
    [InlineData(Opcode.RcReadRequest, 1, false)]
    [InlineData(Opcode.RcAtomicWrite, 8, true)]
    [InlineData(Opcode.RcAtomicWrite, 4, false)]
    [InlineData(Opcode.RcAtomicWrite, 12, false)]
    [InlineData(Opcode.CongestionNotification, 16, true)]
    [InlineData(Opcode.CongestionNotification, 0, false)]
    public void Payload_lengths_are_held_against_a_path_mtu_of_1024(Opcode opcode, int payloadBytes, bool allowed) =>
        Assert.Equal(allowed, OpcodeTraits.Of(opcode).AllowsPayload(payloadBytes, pathMtuBytes: 1024));

    private static string Row(Opcode opcode, OpcodeTraits traits)
    {
        string role = traits.IsRequest ? "request" : traits.IsResponse ? "response" : "-";
        string message = (traits.StartsMessage, traits.EndsMessage) switch
        {
            (true, true) => "starts,ends",
            (true, false) => "starts",
            (false, true) => "ends",
            _ => "-",
        };
        string receive = (traits.ConsumesReceive, traits.CompletesReceive) switch
        {
            (true, true) => "takes,completes",
            (true, false) => "takes",
            (false, true) => "completes",
            _ => "-",
        };
        return $"{(byte)opcode:X2}  {OpcodeTraits.NameOf(opcode),-22} {traits.HeaderBytes,6}  {traits.Headers,-20}  "
            + $"{traits.Payload,-12}  {role,-8}  {message,-11} {receive}";
    }
}
