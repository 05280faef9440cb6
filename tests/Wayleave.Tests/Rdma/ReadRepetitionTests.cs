using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;
using static Wayleave.Tests.Rdma.Conversation;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// READs that are asked for again, on both sides, as <c>rxe_resp.c</c> and <c>rxe_comp.c</c> have it.
/// </summary>
public class ReadRepetitionTests
{
    [Fact]
    public void ROCE_80_A_READ_asked_for_again_is_answered_with_the_present_MSN()
    {
        Conversation c = new();
        c.SendRead(First, 0, 1024);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        c.SendWrite(First + 1, 0x2000, new byte[64]);
        c.Expect("RC_ACKNOWLEDGE a00001 1f msn=2");
        c.SendRead(First, 0, 1024);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=2");
    }

    [Fact]
    public void ROCE_53_An_answer_to_a_later_request_says_at_once_that_the_responses_of_a_READ_were_lost()
    {
        Conversation c = new(a => a with { Profile = PeerProfile.Rxe });
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 64);
        c.Post(2, WorkRequestOpcode.RdmaWrite, 0x1000, 64);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_WRITE_ONLY b00001 A");
        c.SendAck(OwnFirst + 1, msn: 2);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_WRITE_ONLY b00001 A");
        c.SendAck(OwnFirst + 1, msn: 2);
        c.ExpectNothing();
        c.ExpectNoCompletion();
    }

    [Fact]
    public void A_late_copy_of_an_old_READ_takes_no_place_of_a_new_one()
    {
        Conversation c = new(a => a with { MaxDestRdAtomic = 2 });
        c.SendRead(First, 0, 8);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        c.SendRead(First, 0, 8);
        c.SendRead(First, 0, 8);
        c.SendRead(First + 1, 0, 8);
        c.SendRead(First + 2, 0, 8);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        c.Expect("RC_READ_RESP_ONLY a00001 1f msn=2");
        c.Expect("RC_READ_RESP_ONLY a00002 1f msn=3");
        c.ExpectState(QueuePairState.ReadyToSend);
    }
}
